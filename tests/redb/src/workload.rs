//! Several threads on several databases in one volume: work whose every state tells whether it is one that was committed.
//!
//! Each thread numbers its records. A transaction adds some, removes those that are older than the last [`WINDOW`], and moves the thread's
//! count on, all in one; so in every committed state the records of a thread are exactly those of the window below its count, each with the content
//! that its number gives. Most transactions are durable, and are acknowledged once redb says so; the rest ride on the next durable one.

use std::error::Error;
use std::io::{self, Write};
use std::ops::Range;

use cowback::{File, Volume};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::CowbackBackend;

/// Databases, each a file of the volume: their syncs share commits.
pub const DATABASES: u64 = 2;
/// Threads that write into each database.
pub const THREADS: u64 = 2;
/// Records that a thread keeps.
pub const WINDOW: u64 = 100;
/// One transaction in so many is not made durable by itself.
const LAZY: u64 = 4;

const RECORDS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("records");
const COUNTS: TableDefinition<'_, u64, u64> = TableDefinition::new("counts");

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// That a thread's count was committed durably: what `acknowledge` of [`run`] gets, one line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The number of the database.
    pub database: u64,
    /// The number of the thread in it.
    pub thread: u64,
    /// How many records the thread has written.
    pub count: u64,
}

impl Acknowledged {
    /// Parses what [`run`] writes. `None`: it is no whole line, as that of a process which was killed while it wrote.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix(" ok")?.split(' ').map(str::parse);
        let mut next = || words.next()?.ok();
        Some(Self { database: next()?, thread: next()?, count: next()? })
    }
}

/// Works until the process is killed, or something fails.
///
/// # Errors
/// What redb or the volume says; that nobody reads the acknowledgements any more.
pub fn run(volume: &Volume, acknowledge: &(impl Fn(&str) -> io::Result<()> + Sync)) -> Outcome<()> {
    let databases: Vec<Database> =
        (0..DATABASES).map(|number| open(volume, number)).collect::<Outcome<_>>()?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, database) in (0..).zip(&databases) {
            for thread in 0..THREADS {
                threads.push(scope.spawn(move || -> Outcome<()> {
                    loop {
                        if let Some(count) = transaction(database, thread)? {
                            acknowledge(&format!("{number} {thread} {count} ok\n"))?;
                        }
                    }
                }));
            }
        }
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })
}

/// Writes acknowledgements to standard output, each with one call.
///
/// # Errors
/// Nobody reads them.
pub fn to_stdout(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush()
}

/// The name of a database's file.
#[must_use]
pub fn name(database: u64) -> String {
    format!("{database}.redb")
}

/// Opens a database of the volume, or makes it. redb writes its magic number last, so a crash can leave a file that is no database yet: a new one
/// gets its name when it is one.
///
/// # Errors
/// What redb or the volume says.
pub fn open(volume: &Volume, database: u64) -> Outcome<Database> {
    let name = name(database);
    let on = |file: File| {
        Database::builder().set_cache_size(1 << 20).create_with_backend(CowbackBackend(file))
    };
    match volume.open_file(&name) {
        Err(error) if error.is_not_found() => {
            let unnamed = format!("{name}.new");
            match volume.remove_file(&unnamed) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
            let made = on(volume.create_file(&unnamed)?)?;
            volume.rename(&unnamed, &name)?;
            Ok(made)
        }
        file => Ok(on(file?)?),
    }
}

/// One transaction of a thread. Gives its count if that is durable now.
fn transaction(database: &Database, thread: u64) -> Outcome<Option<u64>> {
    let mut transaction = database.begin_write()?;
    let (mut counts, mut records) =
        (transaction.open_table(COUNTS)?, transaction.open_table(RECORDS)?);
    let count = counts.get(thread)?.map_or(0, |count| count.value());
    let draw = mix(count ^ mix(thread));
    let after = count + 1 + draw % 7;
    for number in count..after {
        records.insert((thread, number), content(thread, number).as_slice())?;
    }
    for number in count.saturating_sub(WINDOW)..after.saturating_sub(WINDOW) {
        records.remove((thread, number))?.ok_or("a record of the window is missing")?;
    }
    counts.insert(thread, after)?;
    drop((counts, records));
    let durable = !(draw >> 32).is_multiple_of(LAZY);
    if !durable {
        transaction.set_durability(Durability::None)?;
    }
    transaction.commit()?;
    Ok(durable.then_some(after))
}

/// Checks that a database holds a committed state. Gives the count of each thread.
///
/// # Errors
/// What is not as any commit left it.
pub fn verify(database: &mut Database) -> Outcome<Vec<u64>> {
    if !database.check_integrity()? {
        return Err("redb had to repair a database that it had just opened".into());
    }
    let transaction = database.begin_write()?; // opens tables that are not there yet
    let mut found = Vec::new();
    {
        let (counts, records) = (transaction.open_table(COUNTS)?, transaction.open_table(RECORDS)?);
        for thread in 0..THREADS {
            let count = counts.get(thread)?.map_or(0, |count| count.value());
            let mut expected: Range<u64> = count.saturating_sub(WINDOW)..count;
            for record in records.range((thread, 0)..=(thread, u64::MAX))? {
                let (key, value) = record?;
                let (_, number) = key.value();
                if expected.next() != Some(number) {
                    return Err(format!("record {number} of thread {thread} at {count}").into());
                }
                if value.value() != content(thread, number) {
                    return Err(format!("content of record {number} of thread {thread}").into());
                }
            }
            if let Some(missing) = expected.next() {
                return Err(format!("record {missing} of thread {thread} is missing").into());
            }
            found.push(count);
        }
    }
    transaction.abort()?;
    database.begin_read()?; // readers find the database in order, too
    Ok(found)
}

/// What record `number` of a thread holds: up to 6,000 bytes, half of them noise.
fn content(thread: u64, number: u64) -> Vec<u8> {
    let mut state = mix(mix(thread) ^ number);
    let len = usize::try_from(state % 6000).unwrap_or(0);
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state = mix(state);
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"redb on ");
    }
    bytes.truncate(len);
    bytes
}

/// The finaliser of splitmix64.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

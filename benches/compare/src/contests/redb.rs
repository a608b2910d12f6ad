//! A database, redb: on a file of a cowback volume, on a file of the kernel's btrfs, and on a plain file.

use std::time::Instant;

use cowback_redb::CowbackBackend;
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::contest::{Contestant, KERNEL, Line, OURS, Outcome, Table, contest};
use crate::contests::pack::Output;
use crate::contests::{CODEC, Setup, mib};
use crate::random::Random;
use crate::{kernel, ours};

/// Bytes of a record, of which the stream has as many as fit.
const RECORD: usize = 1000;
/// Records between two durable commits.
const BATCH: usize = 1000;
/// redb's own cache: small, so that its file is read.
const REDB_CACHE: usize = 16 << 20;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");

pub(crate) fn redb(setup: &Setup) -> Outcome<Table> {
    let records = &setup.stream[..setup.stream.len() / 4];
    let count = records.len() / RECORD;
    let ours = || {
        let image = ours::Image::new(&setup.dir, CODEC, setup.threads)?;
        let volume = image.create()?;
        let file = volume.create_file("records.redb")?;
        let figures =
            work(records, |builder| Ok(builder.create_with_backend(CowbackBackend(file))?))?;
        volume.commit()?;
        let used = volume.stats().store.bytes_used;
        volume.close()?;
        Ok([figures, vec![mib(used)]].concat())
    };
    let kernel = || {
        let mounted = kernel::Mounted::new(&setup.dir, setup.room(), CODEC, "")?;
        let path = mounted.path().join("records.redb");
        let figures = work(records, |builder| Ok(builder.create(path)?))?;
        Ok([figures, vec![mib(mounted.used()?)]].concat())
    };
    let plain = || {
        let file = Output::new(setup, "plain.redb");
        let figures = work(records, |builder| Ok(builder.create(&file.0)?))?;
        Ok([figures, vec![mib(file.len()?)]].concat())
    };
    let lines = vec![
        Line::lower(format!("{count} inserts, a commit after each {BATCH}"), "s"),
        Line::higher("random gets", "gets/s"),
        Line::lower("space on disk", "MiB"),
    ];
    let contestants = vec![
        Contestant::new(OURS, ours),
        Contestant::new(KERNEL, kernel),
        Contestant::new("plain file", plain),
    ];
    Ok(Table {
        contest: "redb",
        title: format!("redb: {count} records of {RECORD} bytes of mixed files, {CODEC}"),
        rows: contest(lines, setup.runs, contestants)?,
        notes: vec![format!(
            "redb has {} MiB of cache of its own. The plain file lies beside the images, not compressed, and on tmpfs its syncs cost nothing.",
            REDB_CACHE >> 20
        )],
    })
}

/// Inserts the records in random order, and gets them in another. Gives seconds of inserts, and gets a second.
fn work(
    records: &[u8],
    open: impl FnOnce(&mut redb::Builder) -> Outcome<Database>,
) -> Outcome<Vec<f64>> {
    let database = open(Database::builder().set_cache_size(REDB_CACHE))?;
    let mut keys = Random::new(2);
    let start = Instant::now();
    let all: Vec<(u64, &[u8])> =
        records.chunks_exact(RECORD).map(|record| (keys.next(), record)).collect();
    for batch in all.chunks(BATCH) {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for &(key, record) in batch {
                table.insert(key, record)?;
            }
        }
        transaction.commit()?;
    }
    let inserting = start.elapsed();

    let table = database.begin_read()?.open_table(RECORDS)?;
    let (mut random, gets) = (Random::new(3), all.len());
    let start = Instant::now();
    for _ in 0..gets {
        let pick = random.next() % gets as u64;
        let (key, record) = all[usize::try_from(pick)?];
        let found = redb::ReadableTable::get(&table, key)?;
        if found.is_none_or(|found| found.value() != record) {
            return Err(format!("record {key} is not what it was").into());
        }
    }
    let getting = start.elapsed();
    Ok(vec![inserting.as_secs_f64(), gets as f64 / getting.as_secs_f64()])
}

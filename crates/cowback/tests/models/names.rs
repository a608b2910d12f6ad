//! Names that several threads change and look at, and what of that a crash leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::error::NamespaceError;
use cowback::{Error, FileType, Volume};
use cowback_base::sync::thread;
use shuttle::rand::{Rng, thread_rng};

use crate::explore::explore;
use crate::handles::options;
use crate::linear::{self, Clock, Made, Plain as _, check};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A call, with names by their numbers.
#[derive(Debug, Clone, Copy)]
enum Call {
    Create(usize),
    CreateDir(usize),
    /// A file of so many bytes is made without a name, and put in the place of what has that name.
    Publish(usize, u64),
    Link(usize, usize),
    Rename(usize, usize),
    Remove(usize),
    RemoveDir(usize),
    Open(usize),
    Metadata(usize),
    /// How many links what has that name has. The name is looked up before: so it is only asked for while nothing changes.
    Links(usize),
    List,
    Commit,
    /// All that is not committed is gone.
    Crash,
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    /// There is no such name.
    Missing,
    /// Something of that name is in the way, or of another sort.
    Refused,
    Size(u64),
    Links(u32),
    Directory,
    Names(Vec<usize>),
}

fn any_call() -> Call {
    let mut rng = thread_rng();
    let mut name = || rng.gen_range(0..NAMES.len());
    let (one, other) = (name(), name());
    match rng.gen_range(0..14) {
        0 => Call::Create(one),
        1 => Call::CreateDir(one),
        2 | 3 => Call::Publish(one, rng.gen_range(1..9000)),
        4 => Call::Link(one, other),
        5..=7 => Call::Rename(one, other),
        8 => Call::Remove(one),
        9 => Call::RemoveDir(one),
        10 => Call::Open(one),
        11 => Call::Metadata(one),
        12 => Call::List,
        _ => Call::Commit,
    }
}

fn is_refusal(error: &NamespaceError) -> bool {
    use NamespaceError::{Exists, IsDir, NotDir};
    matches!(error, Exists { .. } | IsDir { .. } | NotDir { .. })
}

fn outcome<T>(result: Result<T, Error>, seen: impl FnOnce(T) -> Outcome) -> Outcome {
    match result {
        Ok(value) => seen(value),
        Err(error) if error.is_not_found() => Outcome::Missing,
        Err(Error::Name { source, .. }) if is_refusal(&source) => Outcome::Refused,
        Err(error) => panic!("{error}"),
    }
}

fn make(volume: &Volume, call: Call) -> Outcome {
    let done = |()| Outcome::Done;
    match call {
        Call::Create(name) => outcome(volume.create_file(NAMES[name]).map(drop), done),
        Call::CreateDir(name) => outcome(volume.create_dir(NAMES[name]), done),
        Call::Publish(name, size) => {
            let file = volume.create_unnamed("").unwrap();
            file.write_at(0, &vec![1; usize::try_from(size).unwrap()]).unwrap();
            outcome(volume.link_file_over(&file, NAMES[name]), done)
        }
        Call::Link(from, to) => outcome(volume.hard_link(NAMES[from], NAMES[to]), done),
        Call::Rename(from, to) => outcome(volume.rename(NAMES[from], NAMES[to]), done),
        Call::Remove(name) => outcome(volume.remove_file(NAMES[name]), done),
        Call::RemoveDir(name) => outcome(volume.remove_dir(NAMES[name]), done),
        Call::Open(name) => outcome(volume.open_file(NAMES[name]), |file| {
            let size = file.len();
            let mut bytes = vec![0; 10_000];
            let read = file.read_at(0, &mut bytes).unwrap();
            assert_eq!(u64::try_from(read).unwrap(), size);
            assert!(bytes[..read].iter().all(|byte| *byte == 1), "its content is thrown away");
            Outcome::Size(size)
        }),
        Call::Metadata(name) => outcome(volume.metadata(NAMES[name]), |metadata| {
            if metadata.kind == FileType::Dir {
                return Outcome::Directory;
            }
            Outcome::Size(metadata.size)
        }),
        Call::Links(name) => {
            outcome(volume.metadata(NAMES[name]), |metadata| Outcome::Links(metadata.nlink))
        }
        Call::List => outcome(volume.read_dir(""), |entries| {
            let number = |name: &[u8]| NAMES.iter().position(|known| known.as_bytes() == name);
            let mut names: Vec<_> =
                entries.iter().map(|entry| number(&entry.name).unwrap()).collect();
            names.sort_unstable();
            Outcome::Names(names)
        }),
        Call::Commit => outcome(volume.commit().map(drop), done),
        Call::Crash => panic!("a volume does not crash by itself"),
    }
}

/// What there would be, were the calls made one after another.
#[derive(Debug, Clone, Default)]
struct Plain {
    /// What each name led to when the last commit was made.
    durable: BTreeMap<usize, u32>,
    /// What each name leads to: files and directories are told apart by their numbers.
    names: BTreeMap<usize, u32>,
    /// The size of each file.
    sizes: BTreeMap<u32, u64>,
    made: u32,
}

impl Plain {
    fn put(&mut self, name: usize, size: Option<u64>) {
        self.made += 1;
        self.names.insert(name, self.made);
        self.sizes.extend(size.map(|size| (self.made, size)));
    }

    /// The size of the file with this name; none for a directory.
    fn size(&self, name: usize) -> Option<Option<u64>> {
        self.names.get(&name).map(|id| self.sizes.get(id).copied())
    }
}

impl linear::Plain for Plain {
    type Call = Call;
    type Outcome = Outcome;

    fn make(&mut self, call: Call) -> Outcome {
        use Outcome::{Directory, Done, Links, Missing, Refused, Size};
        match call {
            Call::Create(name) | Call::CreateDir(name) if self.names.contains_key(&name) => Refused,
            Call::Create(name) => {
                self.put(name, Some(0));
                Done
            }
            Call::CreateDir(name) => {
                self.put(name, None);
                Done
            }
            Call::Publish(name, size) => match self.size(name) {
                Some(None) => Refused,
                _ => {
                    self.put(name, Some(size));
                    Done
                }
            },
            Call::Link(from, to) => match self.size(from) {
                None => Missing,
                Some(None) => Refused,
                _ if self.names.contains_key(&to) => Refused,
                _ => {
                    self.names.insert(to, self.names[&from]);
                    Done
                }
            },
            Call::Rename(from, to) => match (self.size(from), self.size(to)) {
                (None, _) => Missing,
                (Some(one), Some(other)) if one.is_some() != other.is_some() => Refused,
                _ if self.names.get(&from) == self.names.get(&to) => Done,
                _ => {
                    let id = self.names.remove(&from).unwrap();
                    self.names.insert(to, id);
                    Done
                }
            },
            Call::Remove(name) | Call::RemoveDir(name) => match self.size(name) {
                None => Missing,
                Some(size) if size.is_some() != matches!(call, Call::Remove(_)) => Refused,
                _ => {
                    self.names.remove(&name);
                    Done
                }
            },
            Call::Open(name) => match self.size(name) {
                None => Missing,
                Some(None) => Refused,
                Some(Some(size)) => Size(size),
            },
            Call::Metadata(name) => match self.size(name) {
                None => Missing,
                Some(None) => Directory,
                Some(Some(size)) => Size(size),
            },
            Call::Links(name) => self.names.get(&name).map_or(Missing, |id| {
                let same = self.names.values().filter(|other| *other == id);
                Links(u32::try_from(same.count()).unwrap())
            }),
            Call::List => Outcome::Names(self.names.keys().copied().collect()),
            Call::Commit => {
                self.durable.clone_from(&self.names);
                Done
            }
            Call::Crash => {
                self.names.clone_from(&self.durable);
                Done
            }
        }
    }
}

/// All that there is, as calls that look at it.
fn look(volume: &Volume, clock: &Clock) -> Vec<Made<Plain>> {
    let of_names = [Call::Open, Call::Metadata, Call::Links];
    let calls = of_names.into_iter().flat_map(|call| (0..NAMES.len()).map(call));
    calls.chain([Call::List]).map(|call| clock.timed(call, |call| make(volume, call))).collect()
}

/// Each thread makes `calls` calls.
fn names_change(threads: usize, calls: usize) {
    let device = Arc::new(MemoryDevice::new(0));
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let (clock, mut plain) = (Clock::default(), Plain::default());
    for call in [any_call(), any_call(), any_call(), Call::Commit] {
        assert_eq!(make(&volume, call), plain.make(call), "{call:?}");
    }
    let one = || clock.timed(any_call(), |call| make(&volume, call));
    let run = || (0..calls).map(|_| one()).collect::<Vec<_>>();
    let mut made: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut after = look(&volume, &clock);
    if thread_rng().r#gen() {
        after.push(clock.timed(Call::Commit, |call| make(&volume, call)));
    }
    drop(volume);
    after.push(clock.timed(Call::Crash, |_| Outcome::Done));
    let volume = Volume::open_on(device, &options()).unwrap();
    after.extend(look(&volume, &clock));
    made.push(after);
    check(&plain, &made);
}

#[test]
fn names_that_two_threads_change_are_as_if_one_had() {
    explore("names of two threads", 600, || names_change(2, 3));
}

#[test]
fn names_that_three_threads_change_are_as_if_one_had() {
    explore("names of three threads", 600, || names_change(3, 2));
}

/// What is made in a directory is in the one that has the name: though directories are remembered, and another is moved, removed or replaced.
#[test]
fn what_is_made_in_a_directory_that_goes_is_in_the_one_that_has_its_name() {
    explore("a directory goes", 600, || {
        let volume = Volume::create_on(Arc::new(MemoryDevice::new(0)), &options()).unwrap();
        volume.create_dir("d").unwrap();
        volume.create_dir("other").unwrap();
        assert!(!volume.exists("d/x").unwrap());
        let way = thread_rng().gen_range(0..3);
        thread::scope(|scope| {
            scope.spawn(|| match way {
                0 => volume.rename("d", "gone").unwrap(),
                1 => volume.remove_dir("d").unwrap(),
                // It may not be empty any more.
                _ => drop(volume.rename("other", "d")),
            });
            scope.spawn(|| {
                if way == 2 || volume.create_dir("d").is_ok() {
                    drop(volume.create_file("d/x").unwrap());
                    assert!(volume.exists("d/x").unwrap() && !volume.exists("gone/x").unwrap());
                }
            });
        });
    });
}

//! Names, in a few directories that come, go and move, which several threads change and look at; and what of that a crash leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use cowback::device::MemoryDevice;
use cowback::error::NamespaceError;
use cowback::{Error, FileType, Volume};
use cowback_base::sync::thread;
use shuttle::rand::{Rng, thread_rng};

use crate::breakable::{Breakable, Failing, any_failing, is_failure};
use crate::explore::explore;
use crate::handles::options;
use crate::linear::{self, Clock, Durable, Made, Plain as _, check, side_by_side};

/// All paths. Of each directory there may be one in it of the other name.
const PATHS: [&str; 5] = ["a", "b", "c", "a/x", "b/x"];
/// What may be listed.
const DIRS: [&str; 3] = ["", "a", "b"];

type PathIn = &'static str;

#[derive(Debug, Clone, Copy)]
enum Call {
    Create(PathIn),
    CreateDir(PathIn),
    /// A file of so many bytes is made without a name, and put in the place of what has that name.
    Publish(PathIn, u64),
    Link(PathIn, PathIn),
    Rename(PathIn, PathIn),
    Remove(PathIn),
    RemoveDir(PathIn),
    Open(PathIn),
    Metadata(PathIn),
    /// How many links what has that name has. The name is looked up before: so it is only asked for while nothing changes.
    Links(PathIn),
    List(PathIn),
    Commit,
    /// From here on the device may fail: what does is told.
    Break(Failing),
    Resume,
    /// It has been resumed on a device that is well again.
    Mend,
    /// All that is not committed is gone.
    Crash,
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    Failed,
    /// There is no such name.
    Missing,
    /// Something of that name is in the way, or of another sort.
    Refused,
    Size(u64),
    Links(u32),
    Directory,
    Names(Vec<Vec<u8>>),
}

/// Draws a call. If the device `may_fail`, that is among them.
fn any_call(may_fail: bool) -> Call {
    let mut rng = thread_rng();
    let mut path = || PATHS[rng.gen_range(0..PATHS.len())];
    let (one, other) = (path(), path());
    match rng.gen_range(0..if may_fail { 17 } else { 15 }) {
        0 => Call::Create(one),
        1 | 2 => Call::CreateDir(one),
        3 | 4 => Call::Publish(one, rng.gen_range(1..9000)),
        5 => Call::Link(one, other),
        6..=8 => Call::Rename(one, other),
        9 => Call::Remove(one),
        10 => Call::RemoveDir(one),
        11 => Call::Open(one),
        12 => Call::Metadata(one),
        13 => Call::List(DIRS[rng.gen_range(0..DIRS.len())]),
        14 => Call::Commit,
        15 => Call::Resume,
        _ => Call::Break(any_failing()),
    }
}

fn is_refusal(error: &NamespaceError) -> bool {
    use NamespaceError::{Exists, IsDir, Loop, NotDir, NotEmpty};
    matches!(error, Exists { .. } | IsDir { .. } | Loop { .. } | NotDir { .. } | NotEmpty { .. })
}

fn outcome<T>(result: Result<T, Error>, seen: impl FnOnce(T) -> Outcome) -> Outcome {
    match result {
        Ok(value) => seen(value),
        Err(error) if error.is_not_found() => Outcome::Missing,
        Err(Error::Name { source, .. }) if is_refusal(&source) => Outcome::Refused,
        Err(error) if is_failure(&error) => Outcome::Failed,
        Err(error) => panic!("{error}"),
    }
}

fn make(device: &Breakable, volume: &Volume, call: Call) -> Outcome {
    let done = |()| Outcome::Done;
    match call {
        Call::Create(name) => outcome(volume.create_file(name).map(drop), done),
        Call::CreateDir(name) => outcome(volume.create_dir(name), done),
        Call::Publish(name, size) => {
            let content = vec![1; usize::try_from(size).unwrap()];
            let publish = || {
                let file = volume.create_unnamed("")?;
                file.write_at(0, &content)?;
                volume.link_file_over(&file, name)
            };
            outcome(publish(), done)
        }
        Call::Link(from, to) => outcome(volume.hard_link(from, to), done),
        Call::Rename(from, to) => outcome(volume.rename(from, to), done),
        Call::Remove(name) => outcome(volume.remove_file(name), done),
        Call::RemoveDir(name) => outcome(volume.remove_dir(name), done),
        Call::Open(name) => outcome(volume.open_file(name), |file| {
            let size = file.len();
            let mut bytes = vec![0; 10_000];
            let read = file.read_at(0, &mut bytes).unwrap();
            assert_eq!(u64::try_from(read).unwrap(), size);
            assert!(bytes[..read].iter().all(|byte| *byte == 1), "its content is thrown away");
            Outcome::Size(size)
        }),
        Call::Metadata(name) => outcome(volume.metadata(name), |metadata| {
            if metadata.kind == FileType::Dir {
                return Outcome::Directory;
            }
            Outcome::Size(metadata.size)
        }),
        Call::Links(name) => {
            outcome(volume.metadata(name), |metadata| Outcome::Links(metadata.nlink))
        }
        Call::List(path) => outcome(volume.read_dir(path), |entries| {
            let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            Outcome::Names(names)
        }),
        Call::Commit => outcome(volume.commit().map(drop), done),
        Call::Break(failing) => {
            device.set(failing);
            Outcome::Done
        }
        Call::Resume => outcome(volume.try_resume(), done),
        Call::Mend | Call::Crash => panic!("a volume does not do that by itself"),
    }
}

type Id = u32;

const ROOT: Id = 0;

#[derive(Debug, Clone)]
enum Node {
    /// Of so many bytes.
    File(u64),
    Dir(BTreeMap<PathIn, Id>),
}

/// What there would be, were the calls made one after another.
#[derive(Debug, Clone)]
struct Plain {
    nodes: Durable<BTreeMap<Id, Node>>,
}

impl Plain {
    fn new(may_fail: bool) -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(BTreeMap::new()))]);
        Self { nodes: Durable::new(nodes, may_fail) }
    }

    fn entries(&mut self, dir: Id) -> Result<&mut BTreeMap<PathIn, Id>, Outcome> {
        match self.nodes.now.get_mut(&dir) {
            Some(Node::Dir(entries)) => Ok(entries),
            _ => Err(Outcome::Refused),
        }
    }

    /// The directory of a path, the name in it, and what has that name.
    fn find(&mut self, path: PathIn) -> Result<(Id, PathIn, Option<Id>), Outcome> {
        let (dir, name) = match path.split_once('/') {
            Some((dir, name)) => (self.get(dir)?, name),
            None => (ROOT, path),
        };
        Ok((dir, name, self.entries(dir)?.get(name).copied()))
    }

    fn get(&mut self, path: PathIn) -> Result<Id, Outcome> {
        if path.is_empty() { Ok(ROOT) } else { self.find(path)?.2.ok_or(Outcome::Missing) }
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes.now[&id], Node::Dir(_))
    }

    fn put(&mut self, path: PathIn, node: Node) -> Result<(), Outcome> {
        let (dir, name, _) = self.find(path)?;
        let id = u32::try_from(self.nodes.now.len()).unwrap();
        self.nodes.now.insert(id, node);
        self.entries(dir)?.insert(name, id);
        Ok(())
    }

    fn rename(&mut self, from: PathIn, to: PathIn) -> Result<(), Outcome> {
        let (new_dir, new_name, there) = self.find(to)?;
        let (dir, name, moved) = self.find(from)?;
        let moved = moved.ok_or(Outcome::Missing)?;
        if there == Some(moved) {
            return Ok(());
        }
        let replaces = there.is_none_or(|there| match self.nodes.now[&there] {
            Node::File(_) => !self.is_dir(moved),
            Node::Dir(ref entries) => self.is_dir(moved) && entries.is_empty(),
        });
        if moved == new_dir || !replaces {
            return Err(Outcome::Refused);
        }
        self.entries(dir)?.remove(name);
        self.entries(new_dir)?.insert(new_name, moved);
        Ok(())
    }

    fn attempt(&mut self, call: Call) -> Result<Outcome, Outcome> {
        use Outcome::{Directory, Links, Missing, Names, Refused, Size};
        match call {
            Call::Create(path) | Call::CreateDir(path) => {
                if self.find(path)?.2.is_some() {
                    return Err(Refused);
                }
                let is_dir = matches!(call, Call::CreateDir(_));
                self.put(path, if is_dir { Node::Dir(BTreeMap::new()) } else { Node::File(0) })?;
            }
            Call::Publish(path, size) => {
                if self.find(path)?.2.is_some_and(|id| self.is_dir(id)) {
                    return Err(Refused);
                }
                self.put(path, Node::File(size))?;
            }
            Call::Link(from, to) => {
                let id = self.get(from)?;
                let (dir, name, there) = self.find(to)?;
                if self.is_dir(id) || there.is_some() {
                    return Err(Refused);
                }
                self.entries(dir)?.insert(name, id);
            }
            Call::Rename(from, to) => self.rename(from, to)?,
            Call::Remove(path) | Call::RemoveDir(path) => {
                let (dir, name, id) = self.find(path)?;
                let fits = match self.nodes.now[&id.ok_or(Missing)?] {
                    Node::File(_) => matches!(call, Call::Remove(_)),
                    Node::Dir(ref entries) => {
                        matches!(call, Call::RemoveDir(_)) && entries.is_empty()
                    }
                };
                if !fits {
                    return Err(Refused);
                }
                self.entries(dir)?.remove(name);
            }
            Call::Open(path) | Call::Metadata(path) => {
                let id = self.get(path)?;
                return match self.nodes.now[&id] {
                    Node::File(size) => Ok(Size(size)),
                    Node::Dir(_) if matches!(call, Call::Open(_)) => Err(Refused),
                    Node::Dir(_) => Ok(Directory),
                };
            }
            Call::Links(path) => {
                let id = self.get(path)?;
                let links = |node: &Node| match node {
                    Node::Dir(entries) => entries.values().filter(|other| **other == id).count(),
                    Node::File(_) => 0,
                };
                return Ok(Links(
                    u32::try_from(self.nodes.now.values().map(links).sum::<usize>()).unwrap(),
                ));
            }
            Call::List(path) => {
                let dir = self.get(path)?;
                let names = self.entries(dir)?.keys();
                return Ok(Names(names.map(|name| name.as_bytes().to_vec()).collect()));
            }
            Call::Commit => self.nodes.commit(),
            Call::Break(_) | Call::Resume => {}
            Call::Crash => unreachable!("it is no change"),
            Call::Mend => self.nodes.may_fail = false,
        }
        Ok(Outcome::Done)
    }
}

impl linear::Plain for Plain {
    type Call = Call;
    type Outcome = Outcome;

    fn ways(&self, call: Call) -> Vec<(Self, Outcome)> {
        if matches!(call, Call::Crash) {
            let crashed = |nodes| (Self { nodes }, Outcome::Done);
            return self.nodes.crashes().map(crashed).collect();
        }
        let mut usual = self.clone();
        let outcome = usual.attempt(call).unwrap_or_else(|why| why);
        usual.nodes.called();
        let mut ways = vec![(usual, outcome)];
        if self.nodes.may_fail {
            ways.push((self.clone(), Outcome::Failed));
        }
        ways
    }
}

/// All that there is, as calls that look at it.
fn look(device: &Breakable, volume: &Volume, clock: &Clock) -> Vec<Made<Plain>> {
    let of_names = [Call::Open, Call::Metadata, Call::Links];
    let calls = of_names.into_iter().flat_map(|call| PATHS.map(call));
    let calls = calls.chain(DIRS.map(Call::List));
    calls.map(|call| clock.timed(call, |call| make(device, volume, call))).collect()
}

/// `load`: how many threads, and how many calls of each.
fn names_change(load: (usize, usize)) {
    let device = Arc::new(Breakable::new());
    let volume = Volume::create_on(Arc::clone(&device) as _, &options()).unwrap();
    let may_fail = thread_rng().r#gen();
    let (clock, mut plain) = (Clock::default(), Plain::new(may_fail));
    let any = || any_call(false);
    for call in [any(), any(), any(), any(), Call::Commit] {
        assert_eq!(make(&device, &volume, call), plain.make(call), "{call:?}");
    }
    if may_fail {
        device.set(any_failing());
    }
    let one = || clock.timed(any_call(may_fail), |call| make(&device, &volume, call));
    let mut made = side_by_side(load, one);
    // Once the cause is gone, it goes on, and nothing that was acknowledged is lost.
    device.set(Failing::Nothing);
    volume.try_resume().unwrap();
    let mut after = vec![clock.timed(Call::Mend, |_| Outcome::Done)];
    after.extend(look(&device, &volume, &clock));
    for _ in 0..thread_rng().gen_range(0..3) {
        after.push(clock.timed(any_call(false), |call| make(&device, &volume, call)));
    }
    if thread_rng().r#gen() {
        after.push(clock.timed(Call::Commit, |call| make(&device, &volume, call)));
    }
    drop(volume);
    after.push(clock.timed(Call::Crash, |_| Outcome::Done));
    let volume = Volume::open_on(Arc::clone(&device) as _, &options()).unwrap();
    after.extend(look(&device, &volume, &clock));
    volume.close().unwrap(); // at rest (law E4)
    made.push(after);
    check(&plain, &made);
}

#[test]
fn names_that_two_threads_change_are_as_if_one_had() {
    explore("names of two threads", 600, || names_change((2, 3)));
}

#[test]
fn names_that_three_threads_change_are_as_if_one_had() {
    explore("names of three threads", 600, || names_change((3, 2)));
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

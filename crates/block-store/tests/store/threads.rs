//! Many threads at once: files are written, read and removed while commits run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cowback_base::Ino;
use cowback_base::sync::Mutex;
use cowback_block_store::{FormatOptions, Store};

use crate::support::{
    DIR, FILE, check, fixed, new_file, read, reopen, set_size, write, write_inline,
};

const THREADS: u64 = 4;
const ROUNDS: u64 = 150;

/// What one thread does in a directory of its own; gives what must be there in the end.
fn work(store: &Store, thread: u64) -> BTreeMap<String, Vec<u8>> {
    let (dir, _) = store.create(Ino::ROOT, format!("dir{thread}").as_bytes(), &DIR).unwrap();
    let mut files: BTreeMap<String, (Ino, Vec<u8>)> = BTreeMap::new();
    for round in 0..ROUNDS {
        let name = format!("file{}", round % 40);
        let byte = u8::try_from((round * 7 + thread) % 251).unwrap();
        let data = vec![byte; usize::try_from(round * 733 % 50_000 + 1).unwrap()];
        let ino = match files.remove(&name) {
            Some((ino, _)) if round % 3 == 0 => {
                let removed = store.unlink(dir, name.as_bytes()).unwrap();
                assert_eq!(removed.ino, ino);
                store.evict(ino).unwrap();
                store.create(dir, name.as_bytes(), &FILE).unwrap().0
            }
            Some((ino, _)) => {
                store.truncate(ino, 0).unwrap();
                ino
            }
            None => store.create(dir, name.as_bytes(), &FILE).unwrap().0,
        };
        if data.len() < 2000 {
            write_inline(store, ino, &data);
        } else {
            write(store, ino, 0, &data).unwrap();
        }
        set_size(store, ino, data.len() as u64);
        assert!(read(store, ino) == data);
        files.insert(name, (ino, data));
        if round % 20 == thread {
            store.commit().unwrap();
        }
        let (ino, data) =
            &files.values().nth(usize::try_from(round).unwrap() % files.len()).unwrap();
        assert!(read(store, *ino) == *data);
    }
    let path = |(name, (_, data))| (format!("dir{thread}/{name}"), data);
    files.into_iter().map(path).collect()
}

#[test]
fn commits_run_while_files_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    // Few cached blocks, so that they are read again all the time.
    let options = FormatOptions { cached_nodes: 64, ..fixed(300 << 20) };
    let store = Store::format(new_file(&path), &options).unwrap();
    let files = Mutex::new(BTreeMap::new());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let committer = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.commit().unwrap();
                thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (store, files) = (&store, &files);
                scope.spawn(move || {
                    let written = work(store, thread);
                    files.lock().extend(written);
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
        committer.join().unwrap();
    });
    store.commit().unwrap();
    let stats = store.stats();
    assert_eq!((stats.data.promised, stats.data.pinned, stats.metadata.pinned), (0, 0, 0));
    assert_eq!((stats.dirty_nodes, stats.pending_extents), (0, 0));
    drop(store);
    check(&path);
    let store = reopen(&path);
    for (path, data) in files.into_inner() {
        assert!(read(&store, crate::images::find(&store, &path)) == data, "{path}");
    }
}

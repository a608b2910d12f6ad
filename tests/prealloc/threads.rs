//! Many threads on one volume, each with files of its own, with a background thread that writes back and commits while extents change.

use std::path::Path;
use std::time::Duration;

use cowback::{Options, Volume};
use cowback_testkit::random::{Rng, seed};
use cowback_tests::files::Files;
use cowback_tests::read_all;

fn work(image: &Path, seed: u64, pool: usize) {
    let options = Options {
        cache_bytes: 3 << 20,
        threads: pool,
        commit_interval: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let volume = Volume::create(image, &options).unwrap();
    let done: Vec<Files> = std::thread::scope(|scope| {
        let workers = (0..4).map(|number| {
            let volume = &volume;
            scope.spawn(move || {
                let mut rng = Rng::new(seed).fork(number);
                let mut files = Files::default();
                files.make(volume, &format!("{number}-"), true);
                for step in 0..150 {
                    files.step(&mut rng, volume);
                    if step % 40 == 0 {
                        volume.open_file(format!("{number}-log")).unwrap().sync_data().unwrap();
                    }
                }
                files
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    volume.close().unwrap();
    Volume::check(image, &mut |problem| panic!("{problem}")).unwrap();
    let volume = Volume::open(image, &options).unwrap();
    for (name, content) in done.iter().flat_map(Files::iter) {
        assert!(read_all(&volume, name).unwrap() == *content, "{name}");
    }
    volume.close().unwrap();
}

#[test]
fn extents_may_change_while_writeback_and_commits_go_on() {
    let seed = seed("prealloc_threads", 1);
    let dir = tempfile::tempdir().unwrap();
    for pool in [1, 2, 8] {
        work(&dir.path().join(format!("{pool}.img")), seed, pool);
    }
}

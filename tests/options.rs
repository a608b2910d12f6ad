//! Options that cannot be, and options that do not apply: nothing is made for the one, and the other changes nothing.

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::error::StoreError;
use cowback::{Error, Options, SetAttributes, Timespec, Volume};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_new_volume_is_written_to_even_if_the_options_are_those_of_a_reader() {
    let device = Arc::new(MemoryDevice::new(0));
    let options = Options { read_only: true, ..Options::default() };
    let volume = Volume::create_on(Arc::clone(&device) as _, &options).unwrap();
    volume.create_dir("dir").unwrap();
    volume.create_file("dir/file").unwrap().write_at(0, b"content").unwrap();
    volume.close().unwrap();
    let volume = Volume::open_on(device, &options).unwrap();
    assert_eq!(volume.metadata("dir/file").unwrap().size, 7);
    assert!(volume.create_dir("other").is_err(), "now they are a reader's");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made_or_written() {
    let too_small = Options { cache_bytes: 1 << 19, ..Options::default() };
    let refused = |result: Result<Volume, Error>| match result.unwrap_err() {
        Error::Option { option: "cache_bytes", why } => assert!(why.contains("524288"), "{why}"),
        error => panic!("{error}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    refused(Volume::create(&path, &too_small));
    assert!(!path.exists());

    let device = Arc::new(MemoryDevice::new(16 << 20));
    device.write_at(0, &[7; 4096]).unwrap();
    let before = device.to_vec();
    refused(Volume::create_on(Arc::clone(&device) as _, &too_small));
    assert!(device.to_vec() == before);
    Volume::create(&path, &Options::default()).unwrap().close().unwrap();
    refused(Volume::open(&path, &too_small));
}

#[test]
fn each_option_that_cannot_be_is_named_and_no_image_is_made() {
    let plain = Options { fixed_time: None, ..Options::default() };
    let late = Timespec { sec: 1, nsec: 1_000_000_000 };
    let wrong = [
        ("label", Options { label: "l".repeat(256), ..plain.clone() }),
        ("label", Options { label: "a\0b".to_owned(), ..plain.clone() }),
        ("commit_interval", Options { commit_interval: Some(Duration::ZERO), ..plain.clone() }),
        (
            "commit_interval",
            Options { commit_interval: Some(Duration::from_nanos(9)), ..plain.clone() },
        ),
        ("fixed_time", Options { fixed_time: Some(late), ..plain.clone() }),
        ("threads", Options { threads: Options::THREADS_MAX + 1, ..plain.clone() }),
        ("threads", Options { threads: usize::MAX, ..plain.clone() }),
        ("size", Options { size: Some(4096), ..plain.clone() }),
        ("size", Options { size: Some((1 << 62) + 4096), ..plain.clone() }),
        ("size", Options { size: Some(u64::MAX), ..plain.clone() }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let named = |result: Result<Volume, Error>| match result.unwrap_err() {
        Error::Option { option, .. } => option,
        error => panic!("{error}"),
    };
    for (option, options) in &wrong {
        assert_eq!(named(Volume::create(&path, options)), *option);
        assert_eq!(named(Volume::create_on(Arc::new(MemoryDevice::new(0)), options)), *option);
        assert!(!path.exists());
    }
    let most = Options { label: "l".repeat(255), ..plain };
    Volume::create(&path, &most).unwrap().close().unwrap();
    for (option, options) in &wrong {
        // Label and size are for new volumes alone.
        match Volume::open(&path, options) {
            Ok(volume) => {
                assert!(["label", "size"].contains(option), "{option}");
                assert_eq!(volume.label(), [b'l'; 255]);
            }
            refused => assert_eq!(named(refused), *option),
        }
    }
}

#[test]
fn a_time_that_is_none_is_refused_and_changes_nothing() {
    let volume = Volume::create_on(Arc::new(MemoryDevice::new(0)), &Options::default()).unwrap();
    let file = volume.create_file("file").unwrap();
    let before = file.metadata().unwrap();
    let late = Some(Timespec { sec: 1, nsec: 1_000_000_000 });
    for (option, set) in [
        ("accessed", SetAttributes { accessed: late, uid: Some(7), ..SetAttributes::default() }),
        ("modified", SetAttributes { modified: late, uid: Some(7), ..SetAttributes::default() }),
    ] {
        for result in [file.set_attributes(&set), volume.set_attributes("file", &set)] {
            let refused =
                matches!(&result, Err(Error::Option { option: which, .. }) if *which == option);
            assert!(refused, "{result:?}");
        }
    }
    assert_eq!(file.metadata().unwrap(), before);
    let last = Timespec { sec: 1, nsec: 999_999_999 };
    file.set_attributes(&SetAttributes { modified: Some(last), ..SetAttributes::default() })
        .unwrap();
    assert_eq!(file.metadata().unwrap().modified, last);
}

#[test]
fn a_volume_that_was_opened_for_reading_says_so_and_makes_nothing_durable() {
    let device = Arc::new(MemoryDevice::new(0));
    let volume = Volume::create_on(Arc::clone(&device) as _, &Options::default()).unwrap();
    volume.create_file("file").unwrap().write_at(0, &[1; 100]).unwrap();
    assert_eq!(volume.read_only_reason(), None);
    volume.close().unwrap();
    let before = device.to_vec();
    let options = Options { read_only: true, ..Options::default() };
    let volume = Volume::open_on(Arc::clone(&device) as _, &options).unwrap();
    let reason = volume.read_only_reason().unwrap();
    assert!(reason.contains("read-only"), "{reason}");
    let file = volume.open_file("file").unwrap();
    for result in [volume.commit().map(drop), file.sync_data(), file.sync_all()] {
        let refused = matches!(&result, Err(Error::Store(StoreError::ReadOnly { .. })));
        assert!(refused, "{result:?}");
    }
    drop(file);
    volume.close().unwrap();
    assert!(device.to_vec() == before);
}

#[test]
fn an_image_is_locked_until_the_last_file_of_its_volume_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let volume = Volume::create(&path, &Options::default()).unwrap();
    let file = volume.create_file("file").unwrap();
    volume.close().unwrap();
    match Volume::open(&path, &Options::default()).unwrap_err() {
        Error::Image { source, .. } => assert_eq!(source.kind(), std::io::ErrorKind::ResourceBusy),
        error => panic!("{error}"),
    }
    drop(file);
    Volume::open(&path, &Options::default()).unwrap().close().unwrap();
}

#[test]
fn an_image_that_could_not_be_made_is_not_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = Options { size: Some(1 << 20), ..Options::default() };
    Volume::create(&path, &options).unwrap_err();
    assert!(!path.exists(), "too small for a volume");
    Volume::create(&path, &Options::default()).unwrap().close().unwrap();
    let before = std::fs::read(&path).unwrap();
    Volume::create(&path, &options).unwrap_err();
    assert!(std::fs::read(&path).unwrap() == before, "what was there stays");
}

#[test]
fn what_signatures_speak_of_can_be_named() {
    use cowback::check::{Key, Place, Problem, Subject, TreeId};
    use cowback::error::{Ino, NamespaceError};
    use cowback::options::{Algorithm, CompressionPolicy, CompressionSpec, PolicyError};
    let problem = Problem {
        subject: Subject::Tree(TreeId::FS),
        place: Place::Item(Key::MIN),
        what: "it is wrong".to_owned(),
    };
    assert!(matches!(problem.place, Place::Item(key) if key == Key::MIN));
    let error = NamespaceError::NoInode { ino: Ino(257) };
    assert_eq!(error.to_string(), "there is no 257");
    let spec = CompressionSpec::default_of(Algorithm::Zstd);
    assert_eq!(CompressionPolicy::default(), CompressionPolicy::Heuristic(spec));
    let refused: Result<CompressionPolicy, PolicyError> = "brotli".parse();
    refused.unwrap_err();
    let count: cowback::stats::KindCount =
        Volume::create_on(Arc::new(MemoryDevice::new(0)), &Options::default())
            .unwrap()
            .stats()
            .written
            .zstd;
    assert_eq!(count.extents, 0);
}

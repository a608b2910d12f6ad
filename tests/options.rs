//! Options that cannot be, and options that do not apply: nothing is made for the one, and the other changes nothing.

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::{Error, Options, Volume};
use std::sync::Arc;

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

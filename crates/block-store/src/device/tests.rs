//! Both devices against the same few rules.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use super::*;

fn devices() -> Vec<(&'static str, Box<dyn BlockDevice>, Option<tempfile::NamedTempFile>)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let device = FileDevice::open(file.path(), false).unwrap();
    device.set_len(3 << 20).unwrap();
    vec![
        ("memory", Box::new(MemoryDevice::new(3 << 20)) as Box<dyn BlockDevice>, None),
        ("file", Box::new(device), Some(file)),
    ]
}

#[test]
fn what_is_written_in_parts_is_read_as_one() {
    for (name, device, _guard) in devices() {
        let parts: Vec<Vec<u8>> = (0..2500_usize).map(|i| vec![(i % 251) as u8; i % 7]).collect();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole = slices.concat();
        let offset = (1 << 20) - 333;
        device.write_vectored_at(offset, &slices).unwrap();
        device.flush().unwrap();
        let mut back = vec![0xff; whole.len()];
        device.read_at(offset, &mut back).unwrap();
        assert_eq!(back, whole, "{name}");
    }
}

#[test]
fn a_device_that_shrank_and_grew_again_reads_zeros() {
    for (name, device, _guard) in devices() {
        device.write_at(0, &vec![7; 3 << 20]).unwrap();
        device.set_len((1 << 20) + 10).unwrap();
        device.set_len(2 << 20).unwrap();
        assert_eq!(device.len().unwrap(), 2 << 20, "{name}");
        let mut back = vec![1; 100];
        device.read_at((1 << 20) - 10, &mut back).unwrap();
        assert_eq!(&back[..20], &[7; 20], "{name}");
        assert_eq!(&back[20..], &[0; 80], "{name}");
    }
}

#[test]
fn reading_past_the_end_is_an_error() {
    for (name, device, _guard) in devices() {
        let error = device.read_at((3 << 20) - 1, &mut [0; 2]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{name}");
    }
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let writer = FileDevice::create_new(&path).unwrap();
    let busy = |read_only| {
        let error = FileDevice::open(&path, read_only).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("in use"), "{error}");
    };
    busy(true);
    busy(false);
    drop(writer);
    let readers = [(); 3].map(|()| FileDevice::open(&path, true).unwrap());
    busy(false);
    drop(readers);
    FileDevice::open(&path, false).unwrap();
}

#[test]
fn a_name_is_synced_wherever_it_is_and_said_to_be_missing_if_it_has_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    FileDevice::sync_name(&dir.path().join("image")).unwrap();
    FileDevice::sync_name(std::path::Path::new("image")).unwrap();
    let missing = FileDevice::sync_name(&dir.path().join("no/image")).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    // Nothing in /proc can be synced.
    FileDevice::sync_name(std::path::Path::new("/proc/self/image")).unwrap();
}

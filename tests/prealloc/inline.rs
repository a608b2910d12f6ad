//! A small file whose content lies in its metadata, and that is given space.

use std::sync::Arc;

use cowback::device::{BlockDevice, MemoryDevice};
use cowback::{Options, Volume};
use cowback_tests::read_all;

fn options() -> Options {
    Options { cache_bytes: 8 << 20, threads: 2, commit_interval: None, ..Options::default() }
}

#[test]
fn content_that_was_inline_is_in_blocks_when_the_file_has_space_wherever_that_is() {
    for range in [0..4096, 0..64 << 10, 8192..64 << 10] {
        for grows in [false, true] {
            let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(64 << 20));
            let volume = Volume::create_on(Arc::clone(&device), &options()).unwrap();
            let file = volume.create_file("f").unwrap();
            file.write_at(0, b"a few words").unwrap();
            file.sync_all().unwrap();
            assert_eq!(file.extents().unwrap()[0].disk, None, "{range:?}");
            let (size, mut content) = (range.end, b"a few words".to_vec());
            if grows {
                file.allocate(range.clone()).unwrap();
                content.resize(usize::try_from(size).unwrap(), 0);
            } else {
                file.allocate_keep_size(range.clone()).unwrap();
            }
            file.sync_all().unwrap();
            // An inline extent is all that a file has: Linux and btrfs-progs mind any other beside it.
            let extents = file.extents().unwrap();
            assert!(extents.iter().all(|extent| extent.disk.is_some()), "{range:?}: {extents:?}");
            drop((file, volume)); // without a close
            let volume = Volume::open_on(Arc::clone(&device), &options()).unwrap();
            assert!(read_all(&volume, "f").unwrap() == content, "{range:?}, grows: {grows}");
            Volume::check_on(&*device, &mut |problem| panic!("{problem}")).unwrap();
        }
    }
}

//! The oracles on images of mkfs: they pass what is good and refuse what is damaged (law E3).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::*;
use crate::require;

const SIZE: u64 = 128 << 20;

#[test]
fn a_fresh_image_passes_and_a_damaged_one_does_not() {
    let oracle = Oracle::available();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    require!(oracle.mkfs(&image, SIZE, &["-L", "name"]).unwrap(), "oracles on an image of mkfs");
    assert!(oracle.check(&image, Mode::Original).unwrap().passed());
    assert!(oracle.check(&image, Mode::Lowmem).unwrap().passed());
    let fields = oracle.dump_super(&image).unwrap().unwrap();
    assert_eq!(fields["label"], "name");
    let file = File::options().write(true).open(&image).unwrap();
    let root: u64 = fields["chunk_root"].parse().unwrap();
    file.write_all_at(&[0xff; 64], root + 200).unwrap();
    file.write_all_at(&[0xff; 64], (64 << 10) + 600).unwrap();
    let error = oracle.check(&image, Mode::Original).unwrap_err();
    assert!(error.to_string().contains("check"), "{error}");
}

#[test]
fn what_the_kernel_wrote_is_seen_by_all() {
    let oracle = Oracle::available();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    require!(oracle.mkfs(&image, SIZE, &[]).unwrap(), "a tree that the kernel wrote");
    let mount = match oracle.mount(&image, Access::ReadWrite).unwrap() {
        Ok(mount) => mount,
        Err(why) => return skipped("a tree that the kernel wrote", &why),
    };
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::write(mount.path().join("dir/file"), b"some words").unwrap();
    fs::hard_link(mount.path().join("dir/file"), mount.path().join("link")).unwrap();
    let want = Tree::read(mount.path()).unwrap();
    let place = mount.path().to_path_buf();
    mount.scrub().unwrap();
    mount.unmount().unwrap();
    assert!(!place.exists(), "the place is gone with the mount");
    oracle.verify(&image, &want, Compare::FULL).unwrap();
    let mut wrong = want.clone();
    wrong.entries.remove(&b"link"[..]);
    assert!(oracle.mounted(&image, &wrong, Compare::FULL).is_err());
    assert!(oracle.restore(&image, &wrong).is_err());
}

#[test]
fn without_the_programs_a_check_is_skipped_not_passed() {
    let none = Oracle { progs: Err("none".into()), mount: Err("none".into()) };
    let image = Path::new("/nonexistent");
    assert!(!none.check(image, Mode::Original).unwrap().passed());
    assert!(!none.restore(image, &Tree::default()).unwrap().passed());
    assert!(!none.mounted(image, &Tree::default(), Compare::FULL).unwrap().passed());
    assert!(none.mount(image, Access::ReadOnly).unwrap().is_err());
}

#[test]
fn the_standard_corpus_passes_through_a_file_system_that_is_known_to_be_good() {
    let what = "the standard corpus on the kernel's own btrfs";
    let oracle = Oracle::available();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    require!(oracle.mkfs(&image, 512 << 20, &[]).unwrap(), what);
    let mount = match oracle.mount(&image, Access::ReadWrite).unwrap() {
        Ok(mount) => mount,
        Err(why) => return skipped(what, &why),
    };
    let lacking = crate::Corpus::standard(1, true).write_to(mount.path()).unwrap();
    assert_eq!(lacking, [""; 0], "btrfs holds all of it");
    let want = Tree::read(mount.path()).unwrap();
    mount.unmount().unwrap();
    oracle.verify(&image, &want, Compare::FULL).unwrap();
}

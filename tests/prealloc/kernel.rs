//! Files that Linux made: preallocated, `chattr +C`, in snapshots, with extents that are shared. What cowback writes to them goes in place where
//! nobody else can see it, and nowhere else.

use std::path::Path;
use std::process::Command;

use cowback::{Options, Volume};
use cowback_testkit::oracle::{Access, Mode, Oracle};
use cowback_testkit::outcome::skipped;
use cowback_testkit::random::Rng;
use cowback_tests::read_all;

const LEN: usize = 1 << 20;

fn options() -> Options {
    Options { threads: 2, size: Some(1 << 30), commit_interval: None, ..Options::default() }
}

fn run(command: &str, at: &Path) {
    let out = Command::new("sh").args(["-ec", command]).current_dir(at).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
}

fn content(number: u64) -> Vec<u8> {
    Rng::new(number).bytes(LEN)
}

/// Has Linux do `work` on the image. False if there is no Linux that would.
fn kernel(image: &Path, work: impl FnOnce(&Path)) -> bool {
    match Oracle::available().mount(image, Access::ReadWrite).unwrap() {
        Err(why) => {
            skipped("files that the kernel made", &why);
            false
        }
        Ok(mount) => {
            work(mount.path());
            mount.unmount().unwrap();
            true
        }
    }
}

fn judge(image: &Path) {
    Volume::check(image, &mut |problem| panic!("{problem}")).unwrap();
    for mode in [Mode::Original, Mode::Lowmem] {
        Oracle::available().check(image, mode).unwrap().report("btrfs check");
    }
}

/// Writes `data` at `at`, and tells how many bytes of it went in place.
fn overwrite(volume: &Volume, name: &str, at: usize, data: &[u8]) -> u64 {
    let before = volume.stats().written.in_place.stored_bytes;
    let file = volume.open_file(name).unwrap();
    file.write_at(at as u64, data).unwrap();
    file.sync_all().unwrap();
    volume.stats().written.in_place.stored_bytes - before
}

fn empty(image: &Path) {
    Volume::create(image, &options()).unwrap().close().unwrap();
}

#[test]
fn what_linux_preallocated_is_written_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("kernel.img");
    empty(&image);
    let made = kernel(&image, |root| {
        run("touch kept; fallocate -l 1M all; fallocate -n -l 1M kept; fallocate -l 1M part", root);
        run("yes linux | dd of=part bs=4k seek=10 count=5 iflag=fullblock conv=notrunc", root);
        run("fallocate -p -o 200k -l 40k part; fallocate -l 4M cloned", root);
        run("cp --reflink=always cloned clone", root);
    });
    if !made {
        return;
    }
    let volume = Volume::open(&image, &options()).unwrap();
    let data = vec![b'c'; 100_000];
    let linux = read_all(&volume, "part").unwrap();
    assert!(linux[40_960..61_440].starts_with(b"linux\nlinux") && linux[61_440..] == [0; 987_136]);
    assert_eq!(overwrite(&volume, "all", 50_000, &data), 102_400);
    assert_eq!(overwrite(&volume, "kept", 0, &data), 102_400, "behind the end of the file");
    // Five blocks are written already, ten are a hole.
    assert_eq!(overwrite(&volume, "part", 0, &vec![b'c'; 262_144]), 262_144 - 15 * 4096);
    assert_eq!(overwrite(&volume, "cloned", 0, &data), 0, "another file has it too");
    volume.close().unwrap();
    judge(&image);
    kernel(&image, |root| {
        let mut all = vec![0; LEN];
        all[50_000..150_000].fill(b'c');
        assert!(std::fs::read(root.join("all")).unwrap() == all);
        assert!(std::fs::read(root.join("kept")).unwrap() == data);
        assert!(std::fs::read(root.join("part")).unwrap()[..262_144] == vec![b'c'; 262_144]);
        assert!(std::fs::read(root.join("cloned")).unwrap()[..100_000] == data);
        assert!(std::fs::read(root.join("clone")).unwrap() == vec![0; 4 << 20]);
        run("yes again | dd of=all bs=64k count=10 iflag=fullblock conv=notrunc", root);
        run("fallocate -z -o 0 -l 100k kept; rm part", root);
    });
    judge(&image);
}

#[test]
fn nocow_files_of_linux_are_overwritten_in_place_unless_somebody_else_sees_them() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("kernel.img");
    empty(&image);
    let write = |root: &Path, name: &str, number| {
        run(&format!("touch {name}; chattr +C {name}"), root);
        std::fs::write(root.join(name), content(number)).unwrap();
    };
    let made = kernel(&image, |root| {
        write(root, "snapped", 1);
        write(root, "cloned", 2);
        run("sync; btrfs subvolume snapshot -r . snap; touch clone; chattr +C clone", root);
        run("cp --reflink=always cloned clone", root);
        write(root, "alone", 3);
        run("mkdir dir; chattr +C dir; touch dir/empty", root);
    });
    if !made {
        return;
    }
    let volume = Volume::open(&image, &options()).unwrap();
    assert!(volume.open_file("alone").unwrap().is_nocow());
    let data = vec![b'c'; 100_000];
    assert_eq!(overwrite(&volume, "alone", 0, &data), 102_400);
    assert_eq!(overwrite(&volume, "snapped", 0, &data), 0, "the snapshot has it");
    assert_eq!(overwrite(&volume, "cloned", 0, &data), 0, "the clone has it");
    // What was copied is theirs alone.
    assert_eq!(overwrite(&volume, "snapped", 4096, &data), 98_304);
    assert_eq!(overwrite(&volume, "cloned", 4096, &data), 98_304);
    volume.create_file("dir/new").unwrap();
    assert!(volume.open_file("dir/new").unwrap().is_nocow(), "as Linux does it");
    volume.close().unwrap();
    judge(&image);
    kernel(&image, |root| {
        let read = |name: &str| std::fs::read(root.join(name)).unwrap();
        let changed = |number, end: usize| {
            let mut content = content(number);
            content[..end].fill(b'c');
            content
        };
        assert!(read("snap/snapped") == content(1) && read("snap/cloned") == content(2));
        assert!(read("clone") == content(2));
        assert!(read("snapped") == changed(1, 104_096) && read("cloned") == changed(2, 104_096));
        assert!(read("alone") == changed(3, 100_000));
        run("lsattr alone | grep -q C; lsattr dir/new | grep -q C", root);
    });
}

#[test]
fn nocow_files_of_cowback_stay_so_under_linux() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("ours.img");
    let volume = Volume::create(&image, &options()).unwrap();
    let file = volume.create_file("wal").unwrap();
    file.set_nocow(true).unwrap();
    file.allocate(0..LEN as u64).unwrap();
    file.write_at(0, &content(1)[..300_000]).unwrap();
    drop(file);
    volume.close().unwrap();
    judge(&image);
    let made = kernel(&image, |root| {
        let mut expected = content(1);
        expected[300_000..].fill(0);
        assert!(std::fs::read(root.join("wal")).unwrap() == expected);
        run("lsattr wal | grep -q C", root);
        run("yes linux | dd of=wal bs=4k seek=3 count=2 iflag=fullblock conv=notrunc", root);
        run("sync; btrfs subvolume snapshot . snap", root);
    });
    if !made {
        return;
    }
    let volume = Volume::open(&image, &options()).unwrap();
    assert_eq!(overwrite(&volume, "wal", 0, &[b'c'; 8192]), 0, "the snapshot has it");
    assert!(volume.open_file("wal").unwrap().is_nocow());
    volume.close().unwrap();
    judge(&image);
}

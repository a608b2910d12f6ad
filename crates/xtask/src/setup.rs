//! What tests need beside Rust and a C compiler: btrfs-progs, and for kernel mounts root and loop devices.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::run::{Result, run};

/// Sees to it that btrfs-progs are there, by installing them if that is possible; says what to do if not.
pub(crate) fn btrfs_progs() -> Result<()> {
    if has("btrfs") && has("mkfs.btrfs") {
        println!("btrfs-progs: {}", version());
        return Ok(());
    }
    if is_root() && has("apt-get") {
        println!("btrfs-progs are missing: installing them");
        run("apt-get".as_ref(), &["update", "-qq"])?;
        let install = ["install", "-y", "-qq", "--no-install-recommends", "btrfs-progs"];
        run("apt-get".as_ref(), &install)?;
        if has("btrfs") && has("mkfs.btrfs") {
            println!("btrfs-progs: {}", version());
            return Ok(());
        }
        return Err("apt-get has installed btrfs-progs, and there is no `btrfs` in PATH".into());
    }
    // Not an error: the tests say themselves what they skip.
    println!(
        "btrfs-progs are missing: what needs them will be SKIPPED. To have it tested, install them as root:"
    );
    println!("  Debian, Ubuntu: apt-get install btrfs-progs     Fedora: dnf install btrfs-progs");
    println!("  Arch: pacman -S btrfs-progs     Alpine: apk add btrfs-progs");
    Ok(())
}

/// Says whether images can be mounted.
pub(crate) fn kernel() {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let btrfs = known.split_whitespace().any(|word| word == "btrfs");
    let loops = Path::new("/dev/loop-control").exists();
    match (is_root(), loops, btrfs) {
        (true, true, true) => println!("kernel mounts: possible"),
        (false, ..) => println!("kernel mounts: not possible without root, will be SKIPPED"),
        (_, false, _) => println!("kernel mounts: no loop devices here, will be SKIPPED"),
        (.., false) => println!("kernel mounts: btrfs is not loaded; SKIPPED if modprobe fails"),
    }
}

fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

fn version() -> String {
    let output = Command::new("btrfs").arg("--version").stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("of unknown version").to_owned()
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

//! Runs that do not reach their end, and sources that do not hold still.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cowback_testkit::oracle::{Mode, Oracle};
use cowback_testkit::skipped;

use crate::common::{Place, cowback, is_root, noise, program, text};
use rustix::process::{Pid, Signal, kill_process};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Whether whoever runs the tests ignores `signal`, as `nohup` does: then the program does so, too.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

/// Waits until there is something at the place that is not in `known`: the temporary image.
fn wait_for_temporary(place: &Place, known: &[&str]) {
    let begun = Instant::now();
    while place.names().iter().all(|name| known.contains(&name.as_str())) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no temporary image appears");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn quiet(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_signal_leaves_no_half_image_and_the_old_one() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    for number in 0..40 {
        fs::write(place.path(&format!("src/{number}")), text(number, 4 << 20)).unwrap();
    }
    fs::write(place.path("a.img"), b"old").unwrap();
    let all = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::XFSZ];
    for how in all.into_iter().filter(|how| !is_ignored(*how)) {
        let mut command = program();
        let args = ["pack", &place.arg("src"), &place.arg("a.img"), "--overwrite", "-c", "zstd:15"];
        command.args(args).args(["--threads", "1"]);
        let mut child = quiet(command);
        wait_for_temporary(&place, &["a.img", "src"]);
        signal(&child, how);
        let status = child.wait().unwrap();
        assert!(!status.success());
        assert_eq!(place.names(), ["a.img", "src"], "{how:?}");
        assert_eq!(fs::read(place.path("a.img")).unwrap(), b"old");
    }
}

#[test]
fn a_signal_that_is_to_be_ignored_ends_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    for number in 0..10 {
        fs::write(place.path(&format!("src/{number}")), text(number, 1 << 20)).unwrap();
    }
    let mut command = Command::new("sh"); // as `nohup` would start it
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(program().get_program());
    command.args(["pack", &place.arg("src"), &place.arg("a.img"), "-c", "zstd:15"]);
    let mut child = quiet(command);
    wait_for_temporary(&place, &["src"]);
    signal(&child, Signal::HUP);
    assert!(child.wait().unwrap().success());
    cowback(&["check", &place.arg("a.img")]).ok();
}

#[test]
fn a_kill_leaves_the_old_image_and_the_next_run_works() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    for number in 0..40 {
        fs::write(place.path(&format!("src/{number}")), text(number, 4 << 20)).unwrap();
    }
    let image = place.arg("a.img");
    fs::write(&image, b"old").unwrap();
    let mut command = program();
    command.args(["pack", &place.arg("src"), &image, "--overwrite", "-c", "zstd:15"]);
    let mut child = quiet(command);
    wait_for_temporary(&place, &["a.img", "src"]);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    assert_eq!(fs::read(&image).unwrap(), b"old");
    cowback(&["pack", &place.arg("src"), &image, "--overwrite"]).ok();
    cowback(&["check", &image]).ok();
}

#[test]
fn a_put_that_is_killed_changes_nothing() {
    let place = Place::new();
    let image = place.arg("a.img");
    cowback(&["mkfs", &image, "--size", "256M"]).ok();
    crate::common::cowback_fed(&["put", &image, "-", "file"], b"old").ok();
    for how in [Signal::KILL, Signal::TERM] {
        let mut command = program();
        command.args(["put", &image, "-", "file"]);
        let mut child = quiet(command);
        // More than it may hold in memory, and no end.
        child.stdin.as_mut().unwrap().write_all(&noise(1, 200 << 20)).unwrap();
        signal(&child, how);
        child.wait().unwrap();
        assert_eq!(cowback(&["cat", &image, "file"]).ok().out, b"old");
        assert_eq!(cowback(&["ls", &image]).ok().text(), "file\n");
        cowback(&["check", &image]).ok();
    }
}

/// What it is fed with compresses, and is more than the image can promise: it commits while it reads, to make space.
#[test]
fn a_put_that_is_killed_after_it_has_committed_leaves_no_part_of_its_file() {
    let place = Place::new();
    let image = place.arg("a.img");
    cowback(&["mkfs", &image, "--size", "64M"]).ok();
    crate::common::cowback_fed(&["put", &image, "-", "file"], b"old").ok();
    let generation = || cowback(&["info", &image, "--json"]).ok().json()["generation"].clone();
    for how in [Signal::KILL, Signal::TERM] {
        let before = generation();
        let mut command = program();
        command.args(["put", &image, "-", "file"]);
        let mut child = quiet(command);
        child.stdin.as_mut().unwrap().write_all(&text(1, 200 << 20)).unwrap();
        signal(&child, how);
        child.wait().unwrap();
        assert_ne!(generation(), before, "it has committed");
        assert_eq!(cowback(&["cat", &image, "file"]).ok().out, b"old");
        assert_eq!(cowback(&["ls", &image]).ok().text(), "file\n");
        cowback(&["check", &image]).ok();
        let oracle = Oracle::available().check(image.as_ref(), Mode::Original);
        oracle.unwrap().report("btrfs check after a put that was killed");
    }
    // What is left of them goes when the image is next changed.
    cowback(&["rm", &image, "file"]).ok();
    let info = cowback(&["info", &image, "--json"]).ok().json();
    assert_eq!(info["files"], 0);
    assert!(info["used"].as_u64().unwrap() < 1 << 20, "{info}");
}

/// A command that runs the program as a user who may not read everything.
fn as_nobody() -> Option<Command> {
    if !is_root() {
        return Some(program());
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let works = Command::new("setpriv").arg("--version").output().is_ok();
    command.arg(env!("CARGO_BIN_EXE_cowback"));
    works.then_some(command)
}

#[test]
fn unreadable_files_are_named_and_left_out_only_on_demand() {
    let place = Place::new();
    // Everybody may come here, and write.
    let parent = place.path("");
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o777)).unwrap();
    let Some(mut first) = as_nobody() else {
        return skipped("packing without the right to read", "setpriv is not there");
    };
    fs::create_dir_all(place.path("src/closed")).unwrap();
    fs::write(place.path("src/a"), b"a").unwrap();
    fs::write(place.path("src/secret"), b"secret").unwrap();
    fs::write(place.path("src/z"), b"z").unwrap();
    for name in ["src/secret", "src/closed"] {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let args = ["pack", &place.arg("src"), &place.arg("a.img")];
    let out = first.args(args).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    if err.contains("setpriv") || out.status.code() == Some(126) || out.status.code() == Some(127) {
        return skipped("packing without the right to read", &format!("as nobody: {err}"));
    }
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("src/closed: Permission denied") && err.lines().count() == 1, "{err}");
    assert_eq!(place.names(), ["src"]);

    let out = as_nobody().unwrap().args(args).arg("--keep-going").output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(
        err.contains("src/closed: Permission") && err.contains("src/secret: Permission"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 2, "{err}");
    assert_eq!(cowback(&["ls", &place.arg("a.img")]).ok().text(), "a\nz\n");
    for name in ["src/secret", "src/closed"] {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn files_that_change_while_they_are_packed_are_stored_as_read() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    let path = place.path("src/log");
    fs::write(&path, text(1, 64 << 20)).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (path, stop) = (path.clone(), std::sync::Arc::clone(&stop));
        std::thread::spawn(move || {
            let more = text(2, 256 << 10);
            let mut file = File::options().append(true).open(&path).unwrap();
            // All the time: whenever a copy begins and ends, there was a change in between.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(&more).unwrap();
                if file.metadata().unwrap().len() > 80 << 20 {
                    file.set_len(32 << 20).unwrap();
                }
            }
        })
    };
    let mut warned = 0;
    for number in 0..5 {
        let image = place.arg(&format!("{number}.img"));
        let ran = cowback(&["pack", &place.arg("src"), &image]).ok();
        if !ran.err.is_empty() {
            assert!(ran.err.contains("src/log: changed while it was read"), "{}", ran.err);
            assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
            warned += 1;
        }
        cowback(&["check", &image]).ok();
        let size = cowback(&["cat", &image, "log"]).ok().out.len();
        assert!(size >= 32 << 20, "{size}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(warned > 0, "it changed all the time");
}

#[test]
fn a_reader_that_goes_away_is_no_error_message() {
    let place = Place::new();
    let image = place.arg("a.img");
    cowback(&["mkfs", &image, "--size", "64M"]).ok();
    crate::common::cowback_fed(&["put", &image, "-", "file"], &text(1, 8 << 20)).ok();
    let mut command = program();
    command.args(["cat", &image, "file"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(!out.status.success());
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Half of the cache may be dirty before a writer is told of an error; it is a quarter from which on anything is written.
#[test]
fn put_stops_reading_soon_after_the_file_system_of_the_image_is_full() {
    let what = "images on a full file system";
    let place = Place::new();
    fs::create_dir(place.path("full")).unwrap();
    // In a name space of its own: nothing has to be undone. Whoever feeds it counts what was taken.
    let user = if is_root() { "-m" } else { "-rm" };
    let script = "mount -t tmpfs -o size=8M none \"$2\" || exit 77
        \"$1\" mkfs \"$2/a.img\" --size 1G -q || exit 78
        exec \"$1\" put \"$2/a.img\" - x -q -c none --cache 256M";
    let mut command = Command::new("unshare");
    command.args([user, "sh", "-c", script, "sh"]);
    command.arg(program().get_program()).arg(place.path("full"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return skipped(what, &error.to_string()),
    };
    let mut input = child.stdin.take().unwrap();
    let part = noise(1, 1 << 20);
    let taken = (0..400).take_while(|_| input.write_all(&part).is_ok()).count();
    drop(input);
    let ran = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    if ran.status.code() == Some(77) || said.starts_with("unshare:") {
        return skipped(what, &said);
    }
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(taken < 110, "{taken} MiB were read");
}

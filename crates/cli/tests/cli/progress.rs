//! The progress bar, as somebody at a terminal sees it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::common::{Place, cowback, noise, program, text};

/// What the program writes on a terminal that is its standard error.
fn on_terminal(args: &[&str]) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs: OwnedFd = openat(CWD, name, flags, Mode::empty()).unwrap();
    let mut command = program();
    command.args(args).env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(theirs).spawn().unwrap();
    drop(command); // and with it our end of the terminal's other side
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    let mut ours = File::from(ours);
    // When nobody has the other side any more, reading fails.
    while let Ok(got @ 1..) = ours.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..got]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&seen).into_owned()
}

/// An image of 96 MiB that is much smaller itself, with a part that is not.
fn packed(place: &Place) -> String {
    fs::create_dir_all(place.path("src/part")).unwrap();
    for number in 0..3 {
        fs::write(place.path(&format!("src/{number}")), text(number, 28 << 20)).unwrap();
    }
    fs::write(place.path("src/part/noise"), noise(1, 12 << 20)).unwrap();
    fs::hard_link(place.path("src/0"), place.path("src/zero")).unwrap();
    File::create(place.path("src/hole")).unwrap().set_len(1 << 30).unwrap();
    let image = place.arg("a.img");
    cowback(&["pack", &place.arg("src"), &image]).ok();
    image
}

#[test]
fn unpacking_is_measured_in_bytes_as_they_are_unpacked() {
    let place = Place::new();
    let image = packed(&place);
    let all = on_terminal(&["unpack", &image, &place.arg("all"), "--threads", "1"]);
    assert!(all.contains("/96.00 MiB "), "{all:?}");
    let part = ["unpack", &image, &place.arg("part"), "--path", "part", "--threads", "1"];
    let part = on_terminal(&part);
    assert!(part.contains("/12.00 MiB "), "{part:?}");
}

#[test]
fn a_check_shows_how_much_it_has_read() {
    let place = Place::new();
    let image = packed(&place);
    let seen = on_terminal(&["check", &image]);
    assert!(seen.contains("checking: read ") && seen.contains("MiB/s"), "{seen:?}");
    assert!(!seen.contains("ETA"), "nobody knows how much is left: {seen:?}");
}

#[test]
fn a_put_is_measured_and_says_at_its_end_how_it_went() {
    let place = Place::new();
    let image = place.arg("a.img");
    cowback(&["mkfs", &image, "--size", "64M"]).ok();
    fs::write(place.path("noise"), noise(1, 12 << 20)).unwrap();
    fs::write(place.path("text"), text(1, 12 << 20)).unwrap();
    let seen = on_terminal(&["put", &image, &place.arg("noise"), "f", "--threads", "1"]);
    assert!(seen.contains("/12.00 MiB ") && seen.contains("ratio"), "{seen:?}");
    assert_eq!(on_terminal(&["put", &image, &place.arg("text"), "f", "-q"]), "");
    let put = |more: &[&str]| cowback(&[&["put", &image, &place.arg("text"), "f"], more].concat());
    let said = put(&[]).ok().text();
    assert!(said.starts_with("12.0 MiB: ") && said.lines().count() == 1, "{said}");
    assert_eq!(put(&["-q"]).ok().text(), "");
    let object = put(&["--json"]).ok().json();
    assert_eq!(object["bytes_in"], 12 << 20);
    assert!(object["ratio"].as_f64().unwrap() > 2.0, "{object}");
}

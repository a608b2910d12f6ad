//! What a user gets who may not give files away.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use cowback_testkit::skipped;

use cowback::{Options, SetAttributes, Volume};

use crate::common::{Place, is_root, program};

/// Somebody who owns nothing in the images.
const NOBODY: u32 = 65_534;

#[test]
fn set_id_bits_are_given_only_with_their_owner() {
    let place = Place::new();
    let volume = Volume::create(place.path("a.img"), &Options::default()).unwrap();
    for (name, permissions) in [("closed", 0o2070), ("both", 0o6070), ("open", 0o2770)] {
        volume.create_dir(name).unwrap();
        let permissions = Some(permissions);
        let (uid, gid) = (Some(0), Some(0));
        let set = SetAttributes { permissions, uid, gid, ..SetAttributes::default() };
        volume.set_attributes(name, &set).unwrap();
    }
    volume.close().unwrap();
    for path in [place.path("."), place.path("a.img")] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }

    let mut command = program();
    command.args(["unpack", &place.arg("a.img"), &place.arg("out")]);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY).current_dir(place.path("."));
    }
    let ran = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let why = format!("another user may not run the program from here: {error}");
            return skipped("unpacking of set-id bits by another user", &why);
        }
        ran => ran.unwrap(),
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for (name, permissions) in [("closed", 0o070), ("both", 0o070), ("open", 0o770)] {
        let made = fs::metadata(place.path("out").join(name)).unwrap().permissions();
        assert_eq!(made.mode() & 0o7777, permissions, "{name}");
    }
}

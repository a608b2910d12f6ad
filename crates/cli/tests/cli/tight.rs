//! Commands on images without free space, where what was done is committed early: what can be refused is refused before anything is done.

use std::fs;

use crate::common::{Place, cowback};

const FILES: usize = 400;

/// An image that is as small as it can be: `f0` and so on, and a directory with the same.
fn tight(place: &Place) -> String {
    let dir = place.path("src/dir");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..FILES {
        let content = format!("{number:0600}");
        fs::write(place.path("src").join(format!("f{number}")), &content).unwrap();
        fs::write(dir.join(format!("g{number}")), &content).unwrap();
    }
    let image = place.arg("a.img");
    cowback(&["pack", "-q", "-c", "none", "--shrink", &place.arg("src"), &image]).ok();
    image
}

fn list(image: &str) -> String {
    cowback(&["ls", "-R", image]).ok().text()
}

#[test]
fn what_cannot_all_be_removed_stays_as_it_was() {
    let place = Place::new();
    let image = tight(&place);
    let before = list(&image);
    let many: Vec<String> = (0..FILES / 2).map(|number| format!("f{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let last = [
        (&["nope"][..], "/nope: no such file or directory"),
        (&["f0/x"], "/f0: not a directory"),
        (&["dir"], "/dir: is a directory"),
        (&["/"], "the root directory cannot be removed or moved"),
        (&["./f7"], "f7: it is removed already"),
    ];
    for (last, why) in last {
        cowback(&[&["rm", &image], &many[..], last].concat()).fails(1, &[why]);
        assert_eq!(list(&image), before, "{last:?}");
    }
    for (last, why) in [("nope", "/nope: no such file"), ("/dir/g1", "/dir/g1: it is removed")] {
        cowback(&["rm", "-r", &image, "dir", last]).fails(1, &[why]);
        assert_eq!(list(&image), before, "{last}");
    }
    cowback(&[&["rm", "-r", &image], &many[..], &["dir/g5", "dir", "/", "/"]].concat()).ok();
    assert_eq!(cowback(&["ls", &image]).ok().text(), "");
    cowback(&["check", "-q", &image]).ok();
}

#[test]
fn what_cannot_all_be_made_is_not_made() {
    let place = Place::new();
    let image = tight(&place);
    let before = list(&image);
    // Long names: so many nearly fill what the image has left.
    let many: Vec<String> = (0..280).map(|number| format!("{number:0250}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (last, why) in [
        ("dir", "/dir: something of that name exists"),
        ("/", "/: something of that name exists"),
        ("nope/x", "/nope: no such file or directory"),
        ("f0/x", "/f0: not a directory"),
        ("a/..", "`..` is not resolved"),
        (many[0], "something of that name exists"),
    ] {
        cowback(&[&["mkdir", &image], &many[..], &[last]].concat()).fails(1, &[why]);
        assert_eq!(list(&image), before, "{last:?}");
    }
    let why = "/f0: something of that name exists";
    cowback(&[&["mkdir", "-p", &image], &many[..], &["f0/x"]].concat()).fails(1, &[why]);
    assert_eq!(list(&image), before);
    cowback(&["rm", "-r", &image, "dir"]).ok();
    cowback(&["mkdir", &image, "a", "a/b", "/a/b/c"]).ok();
    cowback(&["mkdir", "-p", &image, "a/b", "a/d/e", "a/d/f"]).ok();
    assert!(list(&image).contains("a/d:\ne\nf\n"));
    cowback(&["check", "-q", &image]).ok();
}

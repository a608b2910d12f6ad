//! What commands count: the same words are the same numbers.

use std::fs;

use crate::common::{Place, cowback, make_tree};

#[test]
fn pack_info_check_and_unpack_count_alike() {
    let place = Place::new();
    let (source, image, out) = (place.arg("src"), place.arg("a.img"), place.arg("out"));
    make_tree(&place.path("src"));
    let packed = cowback(&["pack", &source, &image, "--json"]).ok().json();
    let info = cowback(&["info", &image, "--json"]).ok().json();
    let checked = cowback(&["check", &image, "--json"]).ok().json();
    let unpacked = cowback(&["unpack", &image, &out, "--json"]).ok().json();
    for (field, of) in [
        ("files", &[&info, &checked][..]),
        ("dirs", &[&info, &checked, &unpacked]),
        ("hard_links", &[&info, &unpacked]),
    ] {
        for other in of {
            assert!(packed[field].is_u64());
            assert_eq!(packed[field], other[field], "{field}: {other}");
        }
    }
    let given_back =
        unpacked["files"].as_u64().unwrap() + unpacked["nodes_skipped"].as_u64().unwrap();
    assert_eq!(packed["files"], given_back);
    assert_eq!(packed["hard_links"], 2);
    assert!(info["regular_files"].as_u64() < info["files"].as_u64());
}

#[test]
fn an_empty_image_has_one_directory_and_no_file() {
    let place = Place::new();
    let (source, image) = (place.arg("src"), place.arg("a.img"));
    fs::create_dir(&source).unwrap();
    let packed = cowback(&["pack", &source, &image]).ok().text();
    assert!(packed.starts_with("0 files, 0 B, 1 directory"), "{packed}");
    let checked = cowback(&["check", &image]).ok().text();
    assert!(checked.contains(" 0 files, 1 directory,"), "{checked}");
    let info = cowback(&["info", &image]).ok().text();
    assert!(info.contains(" 0 files of 0 B, 0 of them regular; 1 directory, "), "{info}");
    let help = cowback(&["help"]).ok().text();
    assert!(help.contains("Where files are counted"), "{help}");
}

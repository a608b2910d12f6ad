//! Commands, what they do, and what they say.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::common::{Place, assert_same, cowback, cowback_fed, make_tree, noise, text};

const UUID: &str = "6a9c2d1e-0b5f-4a63-9d7e-3c1f5a8b2e47";

fn packed(place: &Place) -> (String, String) {
    make_tree(&place.path("src"));
    let (source, image) = (place.arg("src"), place.arg("a.img"));
    cowback(&["pack", &source, &image]).ok();
    (source, image)
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let place = Place::new();
    let (_, image) = packed(&place);
    cowback(&["check", &image]).ok();
    cowback(&["unpack", &image, &place.arg("out")]).ok();
    assert_same(&place.path("src"), &place.path("out"));
    let held = |name: &str| fs::metadata(place.path(name)).unwrap().blocks() * 512;
    assert!(held("out/sparse") < 1 << 20, "holes come back as holes: {}", held("out/sparse"));
    assert_eq!(held("out/only-hole"), 0);
}

#[test]
fn every_codec_and_checksum_gives_the_tree_back() {
    let place = Place::new();
    make_tree(&place.path("src"));
    let kinds = [
        ("zstd:-15", "crc32c", "dup"),
        ("zstd:15", "xxhash", "single"),
        ("zlib:9", "sha256", "dup"),
        ("lzo", "blake2", "single"),
        ("none", "crc32c", "single"),
    ];
    for (codec, csum, metadata) in kinds {
        let image = place.arg("a.img");
        let out = place.path("out");
        let args = ["pack", &place.arg("src"), &image, "-c", codec, "--csum", csum, "--metadata"];
        cowback(&[&args[..], &[metadata, "--force", "--overwrite"]].concat()).ok();
        cowback(&["check", &image, "-q"]).ok();
        cowback(&["unpack", &image, out.to_str().unwrap()]).ok();
        assert_same(&place.path("src"), &out);
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn the_same_tree_gives_the_same_image_with_any_threads_and_cache() {
    let place = Place::new();
    make_tree(&place.path("src"));
    // With a cache of 128 MiB, there is too much when the second is being written, and much of the first has not been sent.
    for (number, mib) in [28, 10, 3].into_iter().enumerate() {
        let content = cowback_testkit::random::Rng::new(number as u64).bytes(mib << 20);
        fs::write(place.path("src").join(format!("large{number}")), content).unwrap();
    }
    let pack = |name: &str, threads: &str, cache: &str| {
        let mut program = crate::common::program();
        program.args(["pack", &place.arg("src"), &place.arg(name), "--uuid", UUID]);
        program.args(["--threads", threads, "--cache", cache]);
        let out = program.env("SOURCE_DATE_EPOCH", "1500000000").output();
        assert!(out.unwrap().status.success());
        fs::read(place.path(name)).unwrap()
    };
    let one = pack("one.img", "1", "256M");
    for threads in ["1", "2", "8"] {
        assert!(pack("other.img", threads, "256M") == one, "{threads} threads");
        fs::remove_file(place.path("other.img")).unwrap();
    }
    for cache in ["1M", "16M", "128M"] {
        assert!(pack("other.img", "2", cache) == one, "a cache of {cache}");
        fs::remove_file(place.path("other.img")).unwrap();
    }
    // No time is later than the one that was set.
    let list = cowback(&["ls", "-lR", &place.arg("one.img")]).ok();
    let list = String::from_utf8_lossy(&list.out).into_owned();
    assert!(list.contains("2017-07-14 02:40:00") && !list.contains("2096-"), "{list}");
}

#[test]
fn a_bad_source_date_epoch_is_named() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    let args = ["pack", &place.arg("src"), &place.arg("a.img")];
    let out =
        crate::common::program().args(args).env("SOURCE_DATE_EPOCH", "noon").output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let line = String::from_utf8(out.stderr).unwrap();
    assert!(line.starts_with("cowback: SOURCE_DATE_EPOCH: `noon`"), "{line}");
    assert_eq!(place.names(), ["src"]);
}

#[test]
fn json_of_pack_has_its_fields() {
    let place = Place::new();
    make_tree(&place.path("src"));
    let args = ["pack", &place.arg("src"), &place.arg("a.img"), "--json", "--threads", "2"];
    let ran = cowback(&args).ok();
    assert_eq!(ran.err, "");
    let json = ran.json();
    let number = |field: &str| json[field].as_f64().unwrap_or_else(|| panic!("{field}: {json}"));
    assert_eq!(number("threads"), 2.0);
    assert!(number("files") > 740.0 && number("dirs") == 8.0, "{json}");
    assert!(number("bytes_in") > 3e6 && number("bytes_in") < 10e6, "{json}");
    assert!(number("bytes_stored") > 1e6 && number("bytes_stored") < number("bytes_in"));
    assert!((number("ratio") - number("bytes_in") / number("bytes_stored")).abs() < 1e-6);
    for field in ["compressed_extents", "raw_extents", "inline_extents", "seconds", "mib_per_s"] {
        assert!(number(field) > 0.0, "{field}: {json}");
    }
    assert!(number("peak_rss_bytes") > 1e6 && number("peak_rss_bytes") < 384e6 * 1.1);
}

#[test]
fn a_file_in_many_pieces_is_committed_on_the_way() {
    use std::os::unix::fs::FileExt;
    const PIECES: u64 = 40_000;
    let place = Place::new();
    let make = |dir: &str, apart: u64| {
        fs::create_dir(place.path(dir)).unwrap();
        let file = fs::File::create(place.path(dir).join("f")).unwrap();
        (0..PIECES).for_each(|piece| file.write_all_at(&[7; 4096], piece * apart).unwrap());
    };
    make("dense", 4096);
    make("pieces", 8192);
    let generation = |dir: &str| {
        let image = place.arg(&format!("{dir}.img"));
        cowback(&["pack", &place.arg(dir), &image, "--cache", "1M"]).ok();
        cowback(&["info", &image, "--json"]).ok().json()["generation"].as_u64().unwrap()
    };
    // Each piece has an extent, and what the trees say of it is in memory until it is committed.
    let (dense, pieces) = (generation("dense"), generation("pieces"));
    assert!(pieces > dense, "{pieces} commits, and {dense} of a file in one piece");
    // So it is for `put`, and nobody sees the half of it.
    let image = place.arg("dense.img");
    let args = ["put", "--grow", &image, &format!("{}/f", place.arg("pieces")), "/g"];
    cowback(&args).ok();
    let now = cowback(&["info", &image, "--json"]).ok().json()["generation"].as_u64().unwrap();
    assert!(now > dense + 1, "{now} after {dense}");
    let names = cowback(&["ls", &image]).ok().text();
    assert_eq!(names.lines().collect::<Vec<_>>(), ["f", "g"]);
    cowback(&["check", &image]).ok();
}

#[test]
fn quiet_is_quiet_and_the_summary_is_one_line() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    let quiet = cowback(&["pack", &place.arg("src"), &place.arg("a.img"), "-q"]).ok();
    assert!(quiet.out.is_empty() && quiet.err.is_empty());
    let said = cowback(&["pack", &place.arg("src"), &place.arg("b.img")]).ok();
    assert_eq!(said.text().lines().count(), 1);
    assert_eq!(said.err, "");
}

#[test]
fn an_image_is_replaced_only_on_demand() {
    let place = Place::new();
    let (source, image) = packed(&place);
    let before = fs::read(&image).unwrap();
    cowback(&["pack", &source, &image]).fails(1, &[&image, "exists", "--overwrite"]);
    assert!(fs::read(&image).unwrap() == before);
    cowback(&["pack", &source, &image, "--overwrite"]).ok();
    assert!(fs::read(&image).unwrap() != before, "another uuid at least");
    assert_eq!(place.names(), ["a.img", "src"]);
}

#[test]
fn a_full_device_leaves_no_half_image_and_the_old_one() {
    let place = Place::new();
    let (_, image) = packed(&place);
    let before = fs::read(&image).unwrap();
    fs::create_dir(place.path("big")).unwrap();
    fs::write(place.path("big/noise"), noise(1, 80 << 20)).unwrap();
    let args = ["pack", &place.arg("big"), &image, "--size", "64M", "--overwrite"];
    cowback(&args).fails(1, &[&image, "no space left"]);
    assert!(fs::read(&image).unwrap() == before);
    assert_eq!(place.names(), ["a.img", "big", "src"]);
    cowback(&["pack", &place.arg("big"), &place.arg("b.img"), "--size", "1M"])
        .fails(1, &["b.img", "no space left"]);
    assert_eq!(place.names(), ["a.img", "big", "src"]);
}

#[test]
fn the_image_may_lie_inside_the_source() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    fs::write(place.path("src/file"), b"content").unwrap();
    let image = place.arg("src/a.img");
    for _ in 0..2 {
        cowback(&["pack", &place.arg("src"), &image, "--overwrite"]).ok();
        assert_eq!(cowback(&["ls", &image]).ok().text(), "file\n");
    }
}

#[test]
fn missing_sources_are_named() {
    let place = Place::new();
    let (none, file) = (place.arg("none"), place.arg("file"));
    fs::write(&file, b"x").unwrap();
    cowback(&["pack", &none, &place.arg("a.img")]).fails(1, &[&none, "No such file"]);
    cowback(&["pack", &file, &place.arg("a.img")]).fails(1, &[&file, "Not a directory"]);
    cowback(&["pack", "/", &place.arg("no/a.img")]).fails(1, &["no", "No such file"]);
    cowback(&["pack", "/", place.arg("file/a.img").as_str()]).fails(1, &["Not a directory"]);
    assert_eq!(place.names(), ["file"]);
}

#[test]
fn images_that_are_none_are_refused_by_every_command() {
    let place = Place::new();
    let junk = place.arg("junk");
    fs::write(&junk, noise(3, 1 << 20)).unwrap();
    let (empty, none) = (place.arg("empty"), place.arg("none"));
    fs::write(&empty, b"").unwrap();
    let out = place.arg("out");
    for image in [&junk, &empty, &none] {
        let commands: [&[&str]; 10] = [
            &["ls", image],
            &["cat", image, "x"],
            &["info", image],
            &["check", image],
            &["unpack", image, &out],
            &["put", image, &junk, "x"],
            &["mkdir", image, "x"],
            &["mv", image, "x", "y"],
            &["ln", image, "x", "y"],
            &["rm", image, "x"],
        ];
        for command in commands {
            cowback(command).fails(1, &[image]);
        }
    }
    assert_eq!(place.names(), ["empty", "junk"]);
}

#[test]
fn command_lines_that_are_wrong_exit_with_2() {
    let wrong: [&[&str]; 10] = [
        &["pack"],
        &["pack", "a"],
        &["pack", "a", "b", "c"],
        &["pack", "a", "b", "--size", "many"],
        &["pack", "a", "b", "--compress", "zip"],
        &["pack", "a", "b", "--threads", "0"],
        &["mkfs", "a"],
        &["nothing"],
        &["rm", "a"],
        &["--nothing"],
    ];
    for line in wrong {
        cowback(line).fails(2, &["command line"]);
    }
    assert_eq!(cowback::<&str>(&[]).code, 2);
    for line in [&["help"][..], &["--help"], &["--version"], &["help", "pack"], &["pack", "--help"]]
    {
        let ran = cowback(line).ok();
        assert!(!ran.out.is_empty() && ran.err.is_empty());
    }
}

#[test]
fn a_damaged_image_is_found_out_and_named() {
    let place = Place::new();
    fs::create_dir(place.path("src")).unwrap();
    fs::write(place.path("src/noise"), noise(5, 1 << 20)).unwrap();
    fs::write(place.path("src/other"), text(5, 1 << 20)).unwrap();
    let image = place.arg("a.img");
    cowback(&["pack", &place.arg("src"), &image]).ok();
    let mut bytes = fs::read(&image).unwrap();
    let marker = &noise(5, 1 << 20)[500_000..500_064];
    let at = bytes.windows(64).position(|window| window == marker).expect("stored as it is");
    bytes[at] ^= 1;
    fs::write(&image, bytes).unwrap();

    let check = cowback(&["check", &image]);
    assert_eq!(check.code, 1);
    assert!(check.err.lines().all(|line| line.starts_with("cowback: ")), "{}", check.err);
    assert!(check.err.contains("/noise") && !check.err.contains("/other"), "{}", check.err);
    cowback(&["cat", &image, "noise"]).fails(1, &["/noise"]);
    cowback(&["unpack", &image, &place.arg("out")]).fails(1, &["/noise"]);
    let kept = cowback(&["unpack", &image, &place.arg("out2"), "--keep-going"]);
    assert_eq!(kept.code, 1, "{}", kept.err);
    assert_eq!(fs::read(place.path("out2/other")).unwrap(), text(5, 1 << 20));
    assert!(!place.path("out2/noise").exists(), "half a file is worse than none");
}

#[test]
fn a_part_of_an_image_is_unpacked_alone() {
    let place = Place::new();
    let (_, image) = packed(&place);
    cowback(&["unpack", &image, &place.arg("dir"), "--path", "dir"]).ok();
    let src = crate::common::describe(&place.path("src/dir"));
    let out = crate::common::describe(&place.path("dir"));
    assert_eq!(src.keys().collect::<Vec<_>>(), out.keys().collect::<Vec<_>>());
    cowback(&["unpack", &image, &place.arg("one"), "--path", "/mixed"]).ok();
    assert_eq!(
        fs::read(place.path("one/mixed")).unwrap(),
        fs::read(place.path("src/mixed")).unwrap()
    );
    cowback(&["unpack", &image, &place.arg("two"), "--path", "none"]).fails(1, &["/none"]);
    cowback(&["unpack", &image, &place.arg("one")]).fails(1, &["one", "not empty"]);
}

#[test]
fn an_empty_image_is_made_and_filled() {
    let place = Place::new();
    let image = place.arg("a.img");
    let run = |args: &[&str]| cowback(&[&[args[0], &image], &args[1..]].concat());
    run(&["mkfs", "--size", "64M", "--label", "empty\u{202e}"]).ok();
    assert_eq!(fs::metadata(&image).unwrap().len(), 64 << 20);
    assert!(run(&["ls"]).ok().out.is_empty());
    run(&["mkdir", "-p", "a/b/c", "/d"]).ok();
    run(&["mkdir", "a"]).fails(1, &[&image, "/a"]);
    run(&["mkdir", "x/y"]).fails(1, &["/x: no such file"]);
    run(&["mkdir", &"n".repeat(256)]).fails(1, &["too long"]);
    fs::write(place.path("f"), text(1, 300_000)).unwrap();
    run(&["put", &place.arg("f"), "a/b"]).ok();
    assert_eq!(run(&["cat", "a/b/f"]).ok().out, text(1, 300_000));
    run(&["ln", "a/b/f", "a/hard"]).ok();
    run(&["ln", "-s", "../anywhere", "a/soft"]).ok();
    run(&["mv", "a/b/f", "d/moved"]).ok();
    run(&["mv", "d/moved", "a"]).ok();
    let list = run(&["ls", "-R"]).ok().text();
    assert_eq!(list, "/:\na\nd\n\na:\nb\nhard\nmoved\nsoft\n\na/b:\nc\n\na/b/c:\n\nd:\n");
    assert!(run(&["ls", "-l", "a"]).ok().text().contains("soft -> ../anywhere"));
    run(&["rm", "a"]).fails(1, &["/a"]);
    run(&["rm", "-r", "a", "d"]).ok();
    assert!(run(&["ls"]).ok().out.is_empty());
    run(&["check"]).ok();
    let info = run(&["info", "--json"]).ok().json();
    assert_eq!(info["label"], "empty\u{202e}", "as it is");
    assert!(run(&["info"]).ok().text().contains("empty\\u{202e}"), "shown, and not obeyed");
    assert_eq!(info["size"], 64 << 20);
    assert_eq!(info["files"], 0);
}

#[test]
fn put_replaces_whole_files_and_a_full_image_keeps_the_old() {
    let place = Place::new();
    let image = place.arg("a.img");
    cowback(&["mkfs", &image, "--size", "48M"]).ok();
    cowback_fed(&["put", &image, "-", "file"], &text(1, 100_000)).ok();
    cowback_fed(&["put", &image, "-", "file"], b"short").ok();
    assert_eq!(cowback(&["cat", &image, "file"]).ok().out, b"short");
    for _ in 0..2 {
        cowback_fed(&["put", &image, "-", "file"], &noise(4, 60 << 20))
            .fails(1, &["no space left"]);
        assert_eq!(cowback(&["cat", &image, "file"]).ok().out, b"short");
        assert_eq!(cowback(&["ls", &image]).ok().text(), "file\n");
    }
    cowback(&["check", &image]).ok();
    cowback_fed(&["put", &image, "-", "file", "-c", "lzo"], &text(2, 1 << 20)).ok();
    assert_eq!(cowback(&["cat", &image, "file"]).ok().out, text(2, 1 << 20));
    cowback(&["put", &image, &place.arg("none"), "x"]).fails(1, &["none", "No such file"]);
    cowback(&["put", &image, &place.arg("a.img"), "no/x"]).fails(1, &["no"]);
    cowback_fed(&["put", &image, "-", &"n".repeat(256)], b"x").fails(1, &["too long"]);
    cowback_fed(&["put", &image, "-", "/"], b"x").fails(1, &["directory"]);
    assert_eq!(cowback(&["ls", &image]).ok().text(), "file\n");
}

#[test]
fn info_tells_how_files_are_stored() {
    let place = Place::new();
    let (_, image) = packed(&place);
    let info = cowback(&["info", &image, "--json"]).ok().json();
    assert!(info["ratio"].as_f64().unwrap() > 1.2, "{info}");
    for codec in ["zstd", "none", "inline"] {
        assert!(info["codecs"][codec]["extents"].as_u64().unwrap() > 0, "{info}");
    }
    assert!(info["features"].as_array().unwrap().contains(&"compress_zstd".into()), "{info}");
    let text = cowback(&["info", &image]).ok().text();
    assert!(text.contains("generation") && text.contains("zstd"), "{text}");
}

#[test]
fn a_directory_that_is_larger_than_the_names_held_is_packed_whole() {
    let place = Place::new();
    let dir = place.path("src");
    fs::create_dir(&dir).unwrap();
    for number in 0..3000 {
        fs::write(dir.join(format!("{number}-{}", "x".repeat(200))), b"").unwrap();
    }
    cowback(&["pack", &place.arg("src"), &place.arg("a.img")]).ok();
    let list = cowback(&["ls", &place.arg("a.img")]).ok().text();
    assert_eq!(list.lines().count(), 3000);
}

#[test]
fn a_deep_tree_is_packed_and_unpacked() {
    let place = Place::new();
    let mut dir = place.path("src");
    fs::create_dir(&dir).unwrap();
    for _ in 0..400 {
        dir.push("deeper");
        fs::create_dir(&dir).unwrap();
    }
    fs::write(dir.join("bottom"), b"reached").unwrap();
    cowback(&["pack", &place.arg("src"), &place.arg("a.img")]).ok();
    cowback(&["unpack", &place.arg("a.img"), &place.arg("out")]).ok();
    assert_same(&place.path("src"), &place.path("out"));
}

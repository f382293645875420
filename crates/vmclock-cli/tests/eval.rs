// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmclock eval`: every vector through the built command, keys and exit status; and what is not a page.

mod common;

use common::{run, stderr, stdout};
use serde_json::{json, Value};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

#[test]
fn every_vector_comes_out_exactly() {
    let vectors = include_str!("../../vmclock-core/tests/vectors/time-at-counter.json");
    let vectors: Vec<Value> = serde_json::from_str(vectors).expect("the vectors are JSON");
    assert_eq!(vectors.len(), 115);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("page");
    for vector in &vectors {
        let name = &vector["name"];
        let mut page = bytes(vector["page"].as_str().expect("a page"));
        page.resize(4096, 0);
        std::fs::write(&path, page).expect("written");
        let (path, counter) = (path.to_str().expect("plain"), vector["counter"].to_string());
        let output = run(&["eval", "--page", path, "--counter", &counter, "--cpu-counter", "x86-tsc", "--json"]);
        let printed: Value = serde_json::from_str(&stdout(&output)).unwrap_or_else(|error| panic!("{name}: {error}"));
        common::schema::check_as("eval", &printed);
        for (key, expected) in vector["expect"].as_object().expect("an object") {
            let found = if key == "exit" { &json!(output.status.code()) } else { &printed[key] };
            assert_eq!(found, expected, "{name}: {key}");
        }
    }
}

#[test]
fn what_is_not_a_page_is_a_failure_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("plain").to_owned()
    };
    let mut odd = vmclock::Snapshot::BLANK;
    odd.seq_count = 3;
    for (path, words) in [
        (file("empty", &[]), "0 bytes"),
        (file("short", b"VCLK"), "4 bytes"),
        (file("ones", &[0xff; 4096]), "0xffffffff"),
        (file("cut", &vmclock::Snapshot::BLANK.to_bytes()[..40]), "40 bytes"),
        (file("odd", &odd.to_bytes()), "sequence count 3 is odd"),
        (folder.path().to_str().expect("plain").to_owned(), "not a plain file"),
        (format!("{}/missing", folder.path().display()), "No such file"),
        ("/dev/zero".to_owned(), "not a plain file"),
    ] {
        let output = run(&["eval", "--page", &path, "--counter", "1"]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        let error = stderr(&output);
        assert!(error.contains(&path) && error.contains(words), "{error:?} lacks {path:?} or {words:?}");
    }
    let wrong = run(&["eval", "--page", "x", "--counter", "-1"]);
    assert_eq!(wrong.status.code(), Some(2));
}

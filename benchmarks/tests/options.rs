//! What is wrong is said by name, and before anything is measured.
#![allow(missing_docs)]

use std::path::Path;
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vshmem-bench"));
    command.args(arguments).output().unwrap()
}

/// It ends with 2, has measured nothing, and says all of `words`.
fn refused(arguments: &[&str], words: &[&str]) {
    let output = bench(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?} has measured something");
    for word in words {
        assert!(said.contains(word), "{arguments:?} does not say '{word}': {said}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_row_that_there_is_not_is_refused_and_the_groups_are_named() {
    refused(&["--only", "sem-pear"], &["'sem-pear'", "budget", "sem, msg", "--list"]);
    refused(&["--only", "sem,"], &["''"]);
}

#[test]
fn a_time_that_no_row_can_have_is_refused() {
    for wrong in ["0", "-1", "nan", "1e9", "x"] {
        refused(&[&format!("--seconds={wrong}")], &["--seconds"]);
    }
}

#[test]
fn where_nothing_can_be_written_nothing_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("below.json");
    refused(&["--json", text(&below)], &["cannot write", text(&below)]);
    refused(&["--json", text(folder.path())], &["cannot write", "it is a folder"]);
    let json = folder.path().join("a.json");
    let plots = file.join("plots");
    refused(&["--json", text(&json), "--plots", text(&plots)], &["cannot write", text(&plots)]);
    // Nothing but the file that was there.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_earlier_run_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("then.json");
    refused(&["--compare", text(&file)], &["cannot read", text(&file)]);
    for (content, reason) in
        [("", "EOF"), ("{\"format\": 7}", "format is 7"), ("{\"format\": 1}", "missing field")]
    {
        std::fs::write(&file, content).unwrap();
        refused(&["--compare", text(&file)], &[text(&file), reason]);
    }
}

#[test]
fn the_list_has_every_group_and_what_has_to_be_named() {
    let output = bench(&["--list"]);
    assert!(output.status.success());
    let list = String::from_utf8(output.stdout).unwrap();
    for word in ["sem: ", "  sem-pair ", "instructions: ", "  tasks-9900 ", "(goal)"] {
        assert!(list.contains(word), "{word} is not in:\n{list}");
    }
    let one = String::from_utf8(bench(&["--list", "--only", "sem-pair"]).stdout).unwrap();
    assert_eq!(one.lines().count(), 2, "{one}");
}

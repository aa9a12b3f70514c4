//! `docs/promises.md` names only tests that are there.

use vshmem_tests::build::root;
use vshmem_tests::storms::STORMS;

/// The tests a line of the page names, as `file::function`, and its storms.
fn named(page: &str) -> (Vec<(&str, &str)>, Vec<&str>) {
    let rows = page.lines().filter(|l| l.starts_with('|'));
    let spans: Vec<_> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    let tests = spans.iter().filter_map(|s| s.split_once("::")).collect();
    let storms = page.split("storm `").skip(1).filter_map(|s| s.split('`').next()).collect();
    (tests, storms)
}

/// What is wrong with the page.
fn wrong(page: &str) -> Vec<String> {
    let (tests, storms) = named(page);
    let mut wrong = Vec::new();
    for (file, function) in tests {
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        // As a word: some tests are named in tables.
        let there = text.split(|c: char| c != '_' && !c.is_alphanumeric()).any(|w| w == function);
        if !there {
            wrong.push(format!("{file} has no test {function}"));
        }
    }
    let unknown = storms.into_iter().filter(|name| STORMS.iter().all(|s| s.name != *name));
    wrong.extend(unknown.map(|name| format!("there is no storm {name}")));
    wrong
}

#[test]
fn every_promise_names_a_test_that_is_there() {
    let page = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    assert!(named(&page).0.len() > 10);
    let wrong = wrong(&page);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    let page = "| a | `tests/tests/layers.rs::no_such_test`, storm `none` |";
    let found = ["tests/tests/layers.rs has no test no_such_test", "there is no storm none"];
    assert_eq!(wrong(page), found);
}

#[test]
fn every_storm_stands_for_a_promise() {
    let page = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    for storm in STORMS {
        assert!(page.contains(&format!("storm `{}`", storm.name)), "storm {}", storm.name);
    }
}

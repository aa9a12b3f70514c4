//! Every row there is.

mod calls;
mod counts;
mod life;
mod pages;
mod queues;
mod scale;
mod tax;

use anyhow::{Result, bail};

use crate::row::Row;

/// What `--only` calls the rows that have a goal, whatever group they are in.
pub const BUDGET: &str = "budget";

/// Groups and what is in them, in the order of the table.
pub const GROUPS: &[(&str, &str)] = &[
    ("sem", "semaphore sets"),
    ("msg", "message queues"),
    ("shm", "segments"),
    ("queues", "throughput of message queues"),
    ("pages", "pages of segments"),
    ("posix", "sem_t and mutexes"),
    ("trapped", "programs that are linked statically"),
    ("counts", "system calls and switches of an operation"),
    (INSTRUCTIONS, "instructions of an operation, counted by valgrind"),
    ("setup", "what a process pays once"),
    ("idle", "what is awake when nobody calls"),
    ("scale", "many objects, sleepers and tasks"),
    (CROWD, "ten thousand tasks"),
    ("tax", "what the preload costs programs that do something else"),
];

/// Measured by `--instructions`.
pub const INSTRUCTIONS: &str = "instructions";
const CROWD: &str = "crowd";

/// Groups that take too long to be measured unless they are named.
const NAMED: &[&str] = &[INSTRUCTIONS, CROWD];

/// All rows, group by group.
pub fn all() -> Vec<Row> {
    let mut rows = calls::rows();
    for group in [tax::rows, counts::rows, life::rows, queues::rows, pages::rows, scale::rows] {
        rows.extend(group());
    }
    rows.sort_by_key(|row| GROUPS.iter().position(|(group, _)| *group == row.group));
    rows
}

/// How `word` names rows.
#[derive(Clone, Copy)]
enum Word<'a> {
    Budget,
    Group(&'a str),
    Name(&'a str),
    Part(&'a str),
}

impl<'a> Word<'a> {
    /// What is named whole is not meant as a part of other names.
    fn of(word: &'a str, rows: &[Row]) -> Self {
        match word {
            BUDGET => Self::Budget,
            _ if GROUPS.iter().any(|(group, _)| *group == word) => Self::Group(word),
            _ if rows.iter().any(|row| row.name == word) => Self::Name(word),
            _ => Self::Part(word),
        }
    }

    fn fits(self, row: &Row) -> bool {
        match self {
            Self::Budget => row.goal.is_some() && !NAMED.contains(&row.group),
            Self::Group(group) => row.group == group,
            Self::Name(name) => row.name == name,
            Self::Part(_) if NAMED.contains(&row.group) => false,
            Self::Part(part) => !part.is_empty() && row.name.contains(part),
        }
    }
}

/// Those that one of `words` names: a group, a name, or a part of names; if there is no word, all
/// but those that have to be named.
///
/// # Errors
///
/// A word that names none.
pub fn chosen(words: &[String]) -> Result<Vec<Row>> {
    let mut rows = all();
    let meant: Vec<_> = words.iter().map(|word| Word::of(word, &rows)).collect();
    for (word, meant) in words.iter().zip(&meant) {
        if !rows.iter().any(|row| meant.fits(row)) {
            let groups: Vec<_> = GROUPS.iter().map(|(group, _)| *group).collect();
            bail!(
                "no row has '{word}' in its name, and the groups are {BUDGET}, {}; --list shows all",
                groups.join(", ")
            );
        }
    }
    rows.retain(|row| match meant.is_empty() {
        true => !NAMED.contains(&row.group),
        false => meant.iter().any(|word| word.fits(row)),
    });
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(words: &[&str]) -> Vec<String> {
        let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
        chosen(&words).unwrap().into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn each_row_has_a_name_of_its_own_and_a_group_that_is_listed() {
        let rows = all();
        let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            assert!(GROUPS.iter().any(|(group, _)| *group == row.group), "{}", row.name);
        }
        for (group, _) in GROUPS {
            assert!(rows.iter().any(|row| row.group == *group), "{group} is empty");
        }
    }

    #[test]
    fn rows_are_chosen_by_group_by_name_and_by_goal() {
        let named = all().iter().filter(|row| NAMED.contains(&row.group)).count();
        assert_eq!(names(&[]).len(), all().len() - named);
        assert_eq!(names(NAMED).len(), named);
        assert_eq!(names(&["sem-pair"]), ["sem-pair"]);
        assert!(names(&["-pair"]).contains(&"sem-pair-trapped".to_owned()));
        assert!(names(&["msg"]).iter().all(|name| name.contains("msg")));
        let budget = names(&[BUDGET]);
        assert!(budget.contains(&"sem-pair".to_owned()));
        assert!(!budget.contains(&"sem-read".to_owned()));
        assert!(names(&["sem-pair", "tax"]).len() == names(&["tax"]).len() + 1);
    }

    #[test]
    fn a_word_that_names_no_row_is_refused_by_name() {
        for wrong in ["", "semm"] {
            let words = ["sem".to_owned(), wrong.to_owned()];
            let said = chosen(&words).err().expect("it is chosen").to_string();
            assert!(said.contains(&format!("'{wrong}'")), "{said}");
        }
    }
}

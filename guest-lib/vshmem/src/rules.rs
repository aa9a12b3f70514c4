//! Which objects are shared, and with whom: rules that lead keys to regions.
//!
//! ```text
//! 0x1000-0x1fff,0x5000=blue     these keys, whatever is made with them, to region blue
//! shm:private=local             segments without a key stay this kernel's
//! sem:*                         all (other) semaphores to the default region
//! ```
//!
//! A rule is a list of keys and where they lead; the first rule that names a key decides, and what no
//! rule names stays with the local kernel.
//!
//! ```text
//! rules  = rule { ( newline | ";" ) rule }        "#" begins a comment
//! rule   = keys [ "=" target ]                    without a target: default
//! keys   = key { "," key }
//! key    = [ "shm:" | "sem:" | "msg:" ] ( "*" | "private" | number [ "-" number ] )
//! target = "local" | "default" | name of a region
//! ```

use std::fmt;
use vshmem_core::format::valid_name;
use vshmem_core::layout::MAX_NUMBER;
use vshmem_core::region::Kind;

/// Where a key leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// To this kernel's own System V IPC.
    Local,
    /// To the region of `VSHMEM_SOCKET`.
    Default,
    /// To the region of this name.
    Region(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Default => "default",
            Self::Region(name) => name,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keys {
    All,
    Private,
    Range(u32, u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Selector {
    kind: Option<Kind>,
    keys: Keys,
}

impl Selector {
    fn takes(self, kind: Kind, key: i32) -> bool {
        let key = key.cast_unsigned();
        self.kind.is_none_or(|k| k == kind)
            && match self.keys {
                Keys::All => true,
                Keys::Private => key == 0,
                Keys::Range(from, to) => (from..=to).contains(&key),
            }
    }
}

const KINDS: [(&str, Kind); 3] = [("shm:", Kind::Seg), ("sem:", Kind::Set), ("msg:", Kind::Queue)];

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((prefix, _)) = KINDS.iter().find(|(_, kind)| Some(*kind) == self.kind) {
            f.write_str(prefix)?;
        }
        match self.keys {
            Keys::All => f.write_str("*"),
            Keys::Private => f.write_str("private"),
            Keys::Range(from, to) if from == to => write!(f, "{from:#x}"),
            Keys::Range(from, to) => write!(f, "{from:#x}-{to:#x}"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    keys: Vec<Selector>,
    target: Target,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, key) in self.keys.iter().enumerate() {
            write!(f, "{}{key}", if i == 0 { "" } else { "," })?;
        }
        write!(f, "={}", self.target)
    }
}

/// Why a text holds no rules.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}, column {column}: {what}, in the rule {rule:?}")]
pub struct BadRule {
    /// Counted from 1.
    pub line: usize,
    /// In that line, in characters, counted from 1.
    pub column: usize,
    /// The rule.
    pub rule: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// An ordered list of rules. Written out (as `VSHMEM_RULES` carries it) it is what [`Rules::parse`]
/// reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules(Vec<Rule>);

impl Default for Rules {
    /// Everything to the default region: what a process without rules has.
    fn default() -> Self {
        let all = Selector { kind: None, keys: Keys::All };
        Self(vec![Rule { keys: vec![all], target: Target::Default }])
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rule) in self.0.iter().enumerate() {
            write!(f, "{}{rule}", if i == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

impl Rules {
    /// Reads rules: one a line, or several with semicolons between.
    ///
    /// # Errors
    /// The first place where the text is no rule; no rule at all; more regions than one process can
    /// tell apart; a rule that can never apply.
    pub fn parse(text: &str) -> Result<Self, BadRule> {
        let mut rules: Vec<Rule> = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = &line[..line.find('#').unwrap_or(line.len())];
            let mut at = 0;
            for part in line.split(';') {
                let bad = |column: usize, what: String| BadRule {
                    line: n + 1,
                    column: line[..at + column].chars().count() + 1,
                    rule: part.trim().to_owned(),
                    what,
                };
                let begin = part.len() - part.trim_start().len();
                if part.trim().is_empty() {
                    at += part.len() + 1;
                    continue;
                }
                let new = rule(part).map_err(|(column, what)| bad(column, what))?;
                if let Some(before) = rules.iter().find(|r| r.takes_all()) {
                    let what = format!("it never applies: {before} before it takes everything");
                    return Err(bad(begin, what));
                }
                rules.push(new);
                // Each has a number of its own, and numbers are few.
                let most = MAX_NUMBER as usize + 1;
                if Self::targets_of(&rules).len() > most {
                    let what = format!("a program can use at most {most} regions");
                    return Err(bad(begin, what));
                }
                at += part.len() + 1;
            }
        }
        if rules.is_empty() {
            let what = "there is no rule; one is a list of keys and a target, as in \
                        0x1000-0x1fff,0x5000=blue";
            let what = what.to_owned();
            return Err(BadRule { line: 1, column: 1, rule: String::new(), what });
        }
        Ok(Self(rules))
    }

    /// Where an object of `kind` with `key` is; key 0 is `IPC_PRIVATE`.
    #[must_use]
    pub fn target(&self, kind: Kind, key: i32) -> &Target {
        let takes = |r: &&Rule| r.keys.iter().any(|s| s.takes(kind, key));
        self.0.iter().find(takes).map_or(&Target::Local, |r| &r.target)
    }

    /// Where the rest of `kind` goes, which no rule names by key: what calls speak of that list
    /// objects or limits.
    #[must_use]
    pub fn rest(&self, kind: Kind) -> &Target {
        let rest = |s: &Selector| s.keys == Keys::All && s.kind.is_none_or(|k| k == kind);
        let rule = self.0.iter().find(|r| r.keys.iter().any(rest));
        rule.map_or(&Target::Local, |r| &r.target)
    }

    /// The regions that any key leads to, each once, in the order of the rules.
    #[must_use]
    pub fn targets(&self) -> Vec<&Target> {
        Self::targets_of(&self.0)
    }

    fn targets_of(rules: &[Rule]) -> Vec<&Target> {
        let mut all = Vec::new();
        for rule in rules {
            if rule.target != Target::Local && !all.contains(&&rule.target) {
                all.push(&rule.target);
            }
        }
        all
    }
}

impl Rule {
    fn takes_all(&self) -> bool {
        self.keys.contains(&Selector { kind: None, keys: Keys::All })
    }
}

/// Reads one rule; an error has the byte at which the text stops making sense.
fn rule(text: &str) -> Result<Rule, (usize, String)> {
    let (keys, target) = match text.split_once('=') {
        None => (text, Target::Default),
        Some((keys, target)) => {
            let at = keys.len() + 1 + (target.len() - target.trim_start().len());
            (keys, read_target(target.trim()).map_err(|what| (at, what))?)
        }
    };
    let mut all = Vec::new();
    let mut at = 0;
    for key in keys.split(',') {
        let begin = at + (key.len() - key.trim_start().len());
        all.push(selector(key.trim()).map_err(|(column, what)| (begin + column, what))?);
        at += key.len() + 1;
    }
    Ok(Rule { keys: all, target })
}

fn read_target(text: &str) -> Result<Target, String> {
    match text {
        "local" => Ok(Target::Local),
        "default" => Ok(Target::Default),
        name if valid_name(name) => Ok(Target::Region(name.to_owned())),
        "" => Err("a target is missing: local, default or a region's name".to_owned()),
        other => Err(format!(
            "{other:?} is no target: use local, default or a region's name (1 to 32 of a-z, 0-9, '-' and '_')"
        )),
    }
}

fn selector(text: &str) -> Result<Selector, (usize, String)> {
    let prefix = KINDS.iter().find_map(|(prefix, kind)| Some((text.strip_prefix(prefix)?, *kind)));
    let (keys, kind) = prefix.map_or((text, None), |(rest, kind)| (rest, Some(kind)));
    let at = text.len() - keys.len();
    let keys = match keys {
        "*" => Keys::All,
        "private" => Keys::Private,
        "" => return Err((at, "a key is missing: a number, a range, private or *".to_owned())),
        range => match range.split_once('-') {
            None => {
                let key = number(range).map_err(|what| (at, what))?;
                Keys::Range(key, key)
            }
            Some((from, to)) => {
                let low = number(from.trim_end()).map_err(|what| (at, what))?;
                let high = number(to.trim_start()).map_err(|what| (at + from.len() + 1, what))?;
                if low > high {
                    return Err((
                        at,
                        format!("the range {range} is empty: the lower key comes first"),
                    ));
                }
                Keys::Range(low, high)
            }
        },
    };
    Ok(Selector { kind, keys })
}

/// A key as `ipcs` prints it: hexadecimal after 0x, else decimal; without a sign.
fn number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let parsed = match digits {
        // `from_str_radix` would take a sign.
        Some(d) if d.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(d, 16).ok(),
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    match parsed {
        Some(0) => Err("key 0 is IPC_PRIVATE: write private".to_owned()),
        Some(key) => Ok(key),
        None => Err(format!(
            "{text:?} is no key: a number from 1 to 0xffffffff, a range of them, private or *"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::parse(text).unwrap()
    }

    fn leads(text: &str, kind: Kind, key: i32) -> String {
        rules(text).target(kind, key).to_string()
    }

    #[test]
    fn the_first_rule_that_names_a_key_decides() {
        let text = "0x1000-0x1fff,0x5000=blue; 0x1800=red\nprivate=local # stays here\n*=default";
        for (key, target) in [
            (0x0fff, "default"),
            (0x1000, "blue"),
            (0x1800, "blue"),
            (0x1fff, "blue"),
            (0x2000, "default"),
            (0x5000, "blue"),
            (0, "local"),
            (-1, "default"),
        ] {
            assert_eq!(leads(text, Kind::Set, key), target, "{key:#x}");
        }
        assert_eq!(rules(text).rest(Kind::Seg), &Target::Default);
    }

    #[test]
    fn what_no_rule_names_stays_local() {
        for kind in Kind::ALL {
            assert_eq!(leads("42", kind, 42), "default");
            assert_eq!(leads("42", kind, 43), "local");
            assert_eq!(leads("42", kind, 0), "local");
            assert_eq!(rules("42").rest(kind), &Target::Local);
            assert_eq!(Rules::default().target(kind, 7), &Target::Default);
            assert_eq!(Rules::default().rest(kind), &Target::Default);
        }
    }

    #[test]
    fn a_kind_of_object_can_be_meant_alone() {
        let text = "shm:0x80000000-0xffffffff=blue; sem:*=red; msg:private, shm:private = default";
        assert_eq!(leads(text, Kind::Seg, i32::MIN), "blue");
        assert_eq!(leads(text, Kind::Seg, -1), "blue");
        assert_eq!(leads(text, Kind::Queue, -1), "local");
        assert_eq!(leads(text, Kind::Set, 0), "red");
        assert_eq!(leads(text, Kind::Queue, 0), "default");
        assert_eq!(rules(text).rest(Kind::Set).to_string(), "red");
        assert_eq!(rules(text).rest(Kind::Seg), &Target::Local);
        let targets: Vec<_> = rules(text).targets().into_iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["blue", "red", "default"]);
    }

    #[test]
    fn what_is_written_out_is_read_again() {
        for text in ["*=default", "0x1-0xffffffff,private=local;sem:*=blue;msg:0x2a=red"] {
            assert_eq!(rules(text).to_string(), text);
        }
        assert_eq!(
            rules(" 42 , 7-9 # and so on\n\n;\n*").to_string(),
            "0x2a,0x7-0x9=default;*=default"
        );
        assert_eq!(rules("*"), Rules::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, line, column, part) in [
            ("", 1, 1, "no rule"),
            ("# nothing\n ; ", 1, 1, "no rule"),
            ("=blue", 1, 1, "a key is missing"),
            ("1,,2=blue", 1, 3, "a key is missing"),
            ("1,=blue", 1, 3, "a key is missing"),
            ("1=", 1, 3, "a target is missing"),
            ("1=Blue", 1, 3, "\"Blue\" is no target"),
            ("1=blue=red", 1, 3, "is no target"),
            ("1= ../x", 1, 4, "is no target"),
            ("0=blue", 1, 1, "write private"),
            ("1-0x0=blue", 1, 3, "write private"),
            ("0-5=blue", 1, 1, "write private"),
            ("-5=blue", 1, 1, "is no key"),
            ("1--5=blue", 1, 3, "is no key"),
            ("0x+5=blue", 1, 1, "is no key"),
            ("0x=blue", 1, 1, "is no key"),
            ("0x100000000=blue", 1, 1, "is no key"),
            ("4294967296", 1, 1, "is no key"),
            ("5-3=blue", 1, 1, "is empty"),
            ("1-2-3=blue", 1, 3, "\"2-3\" is no key"),
            ("1=blue; shm: =red", 1, 13, "a key is missing"),
            ("é=blue", 1, 1, "is no key"),
            ("1=blue;é,2=red", 1, 8, "is no key"),
            ("1=blue\n  pivate=local", 2, 3, "\"pivate\" is no key"),
            ("seg:1=blue", 1, 1, "is no key"),
            ("*=blue\n1=red", 2, 1, "never applies: *=blue"),
            ("1=a;2=b;3=c;4=d;5=e;6=f;7=g;8=h; 9=i", 1, 34, "at most 8 regions"),
        ] {
            let bad = Rules::parse(text).expect_err(text);
            assert_eq!((bad.line, bad.column), (line, column), "{text:?}: {bad}");
            assert!(bad.what.contains(part), "{text:?}: {bad}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        // Every pair of pieces that mean something, and some that do not.
        let pieces = [
            "", " ", "=", ",", ";", "-", "#", "\n", "*", "0x", "1", "shm:", "private", "é", "\0",
            "local",
        ];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    for d in pieces {
                        if let Ok(read) = Rules::parse(&[a, b, c, d].concat()) {
                            assert_eq!(Rules::parse(&read.to_string()), Ok(read));
                        }
                    }
                }
            }
        }
    }
}

//! `vshmem run --share` and `--rules`: which keys lead where, checked before the program starts.

use crate::args::Run;
use crate::client;
use crate::places;
use crate::run::unreachable;
use anyhow::{Context, anyhow, bail};
use std::path::{Path, PathBuf};
use vshmem::{BadRule, Rules, Session, Target};

/// The rules that the program gets.
#[derive(Debug)]
pub struct Sharing {
    rules: Rules,
    /// Whether anybody asked for rules: without, the program finds none in its environment.
    asked: bool,
}

impl Sharing {
    /// Those of the command line; where it names neither rules nor a region, those that an enclosing
    /// `vshmem run` has set.
    pub fn read(args: &Run) -> anyhow::Result<Self> {
        let mut text = String::new();
        for rule in &args.share {
            // Each by itself first, so that the message names what was typed.
            Rules::parse(rule).map_err(|e| anyhow!("--share {}", typed(rule, &e)))?;
            text.push_str(rule);
            text.push('\n');
        }
        if let Some(file) = &args.rules {
            let own = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the rules {}", file.display()))?;
            Rules::parse(&own).map_err(|e| anyhow!("{}, {e}", file.display()))?;
            text.push_str(&own);
        }
        if !text.is_empty() {
            let rules = Rules::parse(&text).map_err(|e| anyhow!("all rules together, {e}"))?;
            return Ok(Self { rules, asked: true });
        }
        let inherited = vshmem::rules_from_environment().filter(|_| args.region.is_none());
        match inherited {
            Some(Ok(rules)) => Ok(Self { rules, asked: true }),
            Some(Err(e)) => bail!("VSHMEM_RULES, {e}: correct it, or unset it"),
            None => Ok(Self { rules: Rules::default(), asked: false }),
        }
    }

    /// Whether any key leads to the default region.
    pub fn uses_default(&self) -> bool {
        self.rules.targets().contains(&&Target::Default)
    }

    /// Enters every region that the rules name, once, so that what is wrong with one is told now;
    /// refuses two whose ids could not be told apart. `default` is the default region, if it is used.
    pub fn check(&self, runtime_dir: &Path, default: Option<&Session>) -> anyhow::Result<()> {
        let mut seen: Vec<Seen> = Vec::new();
        if let Some(session) = default {
            seen.push(Seen::of(session)?);
        }
        for target in self.rules.targets() {
            let Target::Region(name) = target else { continue };
            let socket = places::socket(runtime_dir, Some(name))?;
            let path = socket.path();
            client::reach(path)
                .map_err(|e| unreachable(path, Some(name), e))
                .with_context(|| format!("a rule leads to region {name}"))?;
            // Two names of one region are one region; entering it again would be the same task.
            if seen.iter().any(|s| s.place == plain(path)) {
                continue;
            }
            let new = Seen::of(&Session::attach_to(path)?)?;
            if let Some(same) = seen.iter().find(|s| s.number == new.number) {
                bail!(
                    "regions {} and {} both have number {}, and no id would tell which of them it is \
                     of: give one of them another `number` in vshmemd's configuration",
                    same.name,
                    new.name,
                    new.number
                );
            }
            seen.push(new);
        }
        Ok(())
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The socket of the one region that any key leads to: a supervisor knows but one.
    pub fn only_region(&self, runtime_dir: &Path, region: Option<&str>) -> anyhow::Result<PathBuf> {
        let mut sockets = Vec::new();
        for target in self.rules.targets() {
            let name = match target {
                Target::Local => continue,
                Target::Default => region,
                Target::Region(name) => Some(name.as_str()),
            };
            let socket = plain(places::socket(runtime_dir, name)?.path());
            if !sockets.contains(&socket) {
                sockets.push(socket);
            }
        }
        match (sockets.pop(), sockets.is_empty()) {
            (Some(only), true) => Ok(std::path::absolute(only)?),
            (None, _) => bail!("no rule leads to a region: there is nothing to trap calls for"),
            _ => bail!(
                "the rules lead to several regions, and a program whose calls are trapped can have \
                 one: let the others' keys be local, or link it dynamically"
            ),
        }
    }

    /// What `VSHMEM_RULES` must hold.
    pub fn variable(&self) -> Option<String> {
        self.asked.then(|| self.rules.to_string())
    }
}

/// A region that was entered.
struct Seen {
    name: String,
    number: u32,
    place: PathBuf,
}

impl Seen {
    fn of(session: &Session) -> anyhow::Result<Self> {
        let (place, region) = (plain(&session.socket()), session.region()?);
        Ok(Self {
            name: region.name().map_err(vshmem::Error::from)?,
            number: region.number(),
            place,
        })
    }
}

/// The path by which a socket is compared.
fn plain(socket: &Path) -> PathBuf {
    std::fs::canonicalize(socket).unwrap_or_else(|_| socket.to_owned())
}

/// A bad rule of the command line, where lines do not count.
fn typed(rule: &str, bad: &BadRule) -> String {
    let BadRule { column, what, .. } = bad;
    format!("{rule:?}, column {column}: {what}")
}

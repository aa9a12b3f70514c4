//! What a row is: two sides, and what is asked of them.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::place::Place;
use crate::run::Turn;

/// What the figures of a row count. Less is better, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds of an operation, or of a round trip.
    Ns,
    /// Nanoseconds of a KiB that is copied.
    NsPerKib,
    /// How many, of an operation.
    PerOp,
    /// How many in a second.
    PerSecond,
    /// The largest of a size to the smallest.
    Times,
    /// Bytes of the region.
    Bytes,
}

impl Unit {
    /// As the table has it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::NsPerKib => "ns/KiB",
            Self::PerOp => "per op",
            Self::PerSecond => "per s",
            Self::Times => "times",
            Self::Bytes => "bytes",
        }
    }
}

/// What a row has to keep.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// At most this, whatever the other side does.
    Most(f64),
    /// At most this much of the other side.
    Ratio(f64),
    /// At most this much more than the other side.
    More(f64),
    /// At most this, or what the other side is.
    MostOrBase(f64),
}

/// A program of `programs/`, and how it is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its source, without `.c`.
    pub source: &'static str,
    /// What it is told to measure.
    pub code: String,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Under `vshmem run`, or alone.
    pub vshmem: bool,
    /// In the region with room for a crowd and 32,000 objects, not in the plain one.
    pub wide: bool,
    /// Linked statically, so that its calls are trapped.
    pub trapped: bool,
    /// Added to its environment.
    pub environment: Vec<(&'static str, &'static str)>,
}

/// A turn that is no program's: its samples.
pub type Code = Box<dyn Fn(&Place, Turn) -> Result<Vec<f64>>>;

/// How a side is measured.
pub enum How {
    /// A program prints a sample per line.
    Program(Program),
    /// Something else.
    Code(Code),
}

/// One side of a row.
pub struct Half {
    /// What it is, in a word.
    pub label: String,
    /// How it is measured.
    pub how: How,
}

/// One row of the table.
pub struct Row {
    /// What `--only` calls it.
    pub name: String,
    /// What `--only` calls it and its like.
    pub group: &'static str,
    /// What is measured, in a few words.
    pub about: String,
    /// What its figures count.
    pub unit: Unit,
    /// What it is compared with, if with anything.
    pub base: Option<Half>,
    /// vshmem.
    pub ours: Half,
    /// What is asked of it.
    pub goal: Option<Goal>,
    /// How many rows' time it needs.
    pub patience: u32,
}

impl Row {
    /// The same code of a program on the kernel and on vshmem.
    pub fn program(
        group: &'static str,
        source: &'static str,
        code: impl Into<String>,
        about: impl Into<String>,
    ) -> Self {
        let program = Program {
            source,
            code: code.into(),
            arguments: Vec::new(),
            vshmem: false,
            wide: false,
            trapped: false,
            environment: Vec::new(),
        };
        let ours = Program { vshmem: true, ..program.clone() };
        Self {
            name: program.code.clone(),
            group,
            about: about.into(),
            unit: Unit::Ns,
            base: Some(Half { label: "kernel".into(), how: How::Program(program) }),
            ours: Half { label: "vshmem".into(), how: How::Program(ours) },
            goal: None,
            patience: 1,
        }
    }

    /// Something that only vshmem has.
    pub fn alone(
        group: &'static str,
        name: impl Into<String>,
        unit: Unit,
        about: impl Into<String>,
        code: impl Fn(&Place, Turn) -> Result<Vec<f64>> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            group,
            about: about.into(),
            unit,
            base: None,
            ours: Half { label: "vshmem".into(), how: How::Code(Box::new(code)) },
            goal: None,
            patience: 1,
        }
    }

    /// Both sides are this code.
    pub fn both(
        mut self,
        code: impl Fn(&Place, Turn) -> Result<Vec<f64>> + Clone + 'static,
    ) -> Self {
        if let Some(base) = &mut self.base {
            base.how = How::Code(Box::new(code.clone()));
        }
        self.ours.how = How::Code(Box::new(code));
        self
    }

    fn change(mut self, base: bool, ours: bool, f: impl Fn(&mut Program)) -> Self {
        let halves = [(base, self.base.as_mut()), (ours, Some(&mut self.ours))];
        for half in halves.into_iter().filter_map(|(wanted, half)| half.filter(|_| wanted)) {
            if let How::Program(program) = &mut half.how {
                f(program);
            }
        }
        self
    }

    /// Another name than the code's.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What is asked of it.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// What its figures count.
    pub fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// Measured for this many rows' time.
    pub fn patience(mut self, rows: u32) -> Self {
        self.patience = rows;
        self
    }

    /// Both programs are told these as well.
    pub fn with(self, arguments: &[&str]) -> Self {
        self.change(true, true, |p| p.arguments.extend(arguments.iter().map(|a| (*a).to_owned())))
    }

    /// Both are in the wide region, where they are in one.
    pub fn wide(self) -> Self {
        self.change(true, true, |p| p.wide = true)
    }

    /// Compared with this code of the same program, which uses no System V IPC.
    pub fn beside(mut self, label: &str, code: &str) -> Self {
        if let Some(base) = &mut self.base {
            base.label = label.to_owned();
        }
        self.change(true, false, |p| p.code = code.to_owned())
    }

    /// Ours never spins. The kernel's waits never do.
    pub fn asleep(self) -> Self {
        self.change(false, true, |p| p.environment.push(("VSHMEM_SPIN", "0")))
    }

    /// Both are linked statically.
    pub fn trapped(self) -> Self {
        self.change(true, true, |p| p.trapped = true)
    }

    /// Compared with itself: other arguments on each side, both on vshmem or both on the kernel.
    pub fn beside_itself(mut self, vshmem: bool, from: (&str, &str), to: (&str, &str)) -> Self {
        if let Some(base) = &mut self.base {
            base.label = from.0.to_owned();
        }
        self.ours.label = to.0.to_owned();
        self.change(true, true, |p| p.vshmem = vshmem)
            .change(true, false, |p| p.arguments.push(from.1.to_owned()))
            .change(false, true, |p| p.arguments.push(to.1.to_owned()))
    }

    /// Each side is `code` of its program.
    pub fn through<F>(mut self, code: F) -> Self
    where
        F: Fn(&Place, &Program, Turn) -> Result<Vec<f64>> + Clone + 'static,
    {
        for half in self.base.iter_mut().chain([&mut self.ours]) {
            if let How::Program(program) = &half.how {
                let (program, code) = (program.clone(), code.clone());
                half.how = How::Code(Box::new(move |place, turn| code(place, &program, turn)));
            }
        }
        self
    }
}

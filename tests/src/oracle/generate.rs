//! Random programs.

use super::Program;
use crate::rng::Rng;

/// Which calls a program favours.
#[derive(Clone, Copy)]
struct Theme {
    sem: usize,
    shm: usize,
    msg: usize,
    /// Ends, forks, signals.
    life: usize,
    /// Other users.
    user: usize,
}

const THEMES: &[Theme] = &[
    Theme { sem: 70, shm: 3, msg: 3, life: 18, user: 3 },
    Theme { sem: 3, shm: 75, msg: 3, life: 14, user: 3 },
    Theme { sem: 3, shm: 3, msg: 75, life: 14, user: 3 },
    Theme { sem: 30, shm: 30, msg: 30, life: 8, user: 2 },
    Theme { sem: 25, shm: 25, msg: 25, life: 3, user: 22 },
];

/// Variables used of each kind.
const VARIABLES: usize = 3;

struct Maker {
    rng: Rng,
    /// Bits: variables that were given to a `*get`. By kind: s, m, q.
    made: [Vec<usize>; 3],
    nsems: [usize; VARIABLES],
    /// Where something was attached last.
    places: Vec<String>,
    workers: usize,
    steps: Vec<String>,
}

/// The program of a seed.
pub fn program(seed: u64) -> Program {
    let mut rng = Rng::new(seed);
    let theme = *rng.one(THEMES);
    let workers = 3 + rng.below(3);
    let length = 25 + rng.below(40);
    let watched = rng.percent(70);
    // Waiting for the clock takes long: in a few it is done.
    let ticks = rng.below(500) == 0;
    let mut maker = Maker {
        rng,
        made: Default::default(),
        nsems: [1; VARIABLES],
        places: Vec::new(),
        workers,
        steps: Vec::new(),
    };
    let kinds: Vec<usize> = (0..3).filter(|k| [theme.sem, theme.shm, theme.msg][*k] > 20).collect();
    for kind in kinds {
        // Something to work with, in most programs for everybody.
        let mode = maker.one(&["0666", "0666", "0666", "0640", "0600"]);
        let size = ["3 ", "10000 ", ""][kind];
        let call = ["semget", "shmget", "msgget"][kind];
        let name = KINDS[kind];
        maker.push(format!("{call} k0 {size}creat|{mode} ={name}0"));
        maker.made[kind].push(0);
        maker.nsems[0] = 3;
        if maker.rng.percent(60) {
            maker.get(kind);
        }
    }
    while maker.steps.len() < length {
        maker.step(theme);
        if ticks && maker.steps.len().is_multiple_of(12) {
            maker.steps.push("- tick".into());
        }
    }
    Program { name: format!("seed-{seed}"), workers, watched, steps: maker.steps }
}

const KINDS: [char; 3] = ['s', 'm', 'q'];

impl Maker {
    fn step(&mut self, theme: Theme) {
        let sum = theme.sem + theme.shm + theme.msg + theme.life + theme.user;
        let mut n = self.rng.below(sum);
        for (weight, make) in [
            (theme.sem, Self::sem as fn(&mut Self)),
            (theme.shm, Self::shm),
            (theme.msg, Self::msg),
            (theme.life, Self::life),
            (theme.user, Self::user),
        ] {
            if n < weight {
                return make(self);
            }
            n -= weight;
        }
    }

    /// Whoever is free: a step for somebody who sleeps would be wasted.
    fn push(&mut self, step: String) {
        if self.rng.percent(40) {
            return self.steps.push(format!("*0 {step}"));
        }
        let from = self.rng.below(self.workers);
        self.steps.push(format!("*{from} {step}"));
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        self.rng.one(of).clone()
    }

    /// An id of `kind`, mostly one that may be there.
    fn id(&mut self, kind: usize) -> String {
        let chance = self.rng.below(100);
        let made = self.made[kind].clone();
        if chance < 96 && !made.is_empty() {
            return format!("{}{}", KINDS[kind], self.one(&made));
        }
        match chance % 6 {
            0 => format!("{}{}", self.one(&KINDS), self.rng.below(VARIABLES)),
            1 => "-1".into(),
            2 => "30000".into(),
            3 => format!("{}{}.n", KINDS[kind], self.rng.below(VARIABLES)),
            _ => format!("{}{}", KINDS[kind], self.rng.below(VARIABLES)),
        }
    }

    /// An index for the `*_STAT` commands.
    fn index(&mut self, kind: usize) -> String {
        if self.rng.percent(70) {
            return format!("{}{}.i", KINDS[kind], self.rng.below(VARIABLES));
        }
        self.one(&["0", "1", "2", "5", "40", "63", "64", "32767", "32768", "-1", "0x7fffffff"])
            .to_owned()
    }

    fn mode(&mut self) -> String {
        let modes = ["0666", "0666", "0666", "0600", "0600", "0640", "0444", "0222", "0", "0060"];
        let mut mode = self.one(&modes).to_owned();
        if self.rng.percent(5) {
            mode = format!("0{:o}", self.rng.below(0o1000));
        }
        mode
    }

    fn get(&mut self, kind: usize) {
        let var = self.rng.below(VARIABLES);
        let private = self.rng.percent(25);
        let key = if private { "private".to_owned() } else { format!("k{}", self.rng.below(3)) };
        let mut flags = self.mode();
        if self.rng.percent(80) {
            flags = format!("creat|{flags}");
        }
        if self.rng.percent(15) {
            flags = format!("excl|{flags}");
        }
        // Not 04000, which for segments is SHM_HUGETLB: what it does depends on the machine.
        if self.rng.percent(3) {
            flags = format!("{}|{flags}", self.one(&["010000", "020000", "040000000"]));
        }
        let call = match kind {
            0 => {
                let sems = [1, 1, 2, 3, 3, 4, 8, 0, 250, 600];
                let mut n = self.one(&sems).to_string();
                self.nsems[var] = n.parse().unwrap_or(1);
                if self.rng.percent(4) {
                    n = self.one(&["-1", "32000", "32001", "0x7fffffff", "-2147483648"]).into();
                }
                format!("semget {key} {n} {flags}")
            }
            1 => {
                let sizes = ["1", "4095", "4096", "4097", "10000", "65536", "65537", "200000", "0"];
                let mut size = self.one(&sizes).to_owned();
                if self.rng.percent(3) {
                    size = self.one(&["-1", "1048576", "min"]).into();
                }
                if self.rng.percent(3) {
                    flags = format!("noreserve|{flags}");
                }
                format!("shmget {key} {size} {flags}")
            }
            _ => format!("msgget {key} {flags}"),
        };
        if !self.made[kind].contains(&var) {
            self.made[kind].push(var);
        }
        let name = KINDS[kind];
        self.push(format!("{call} ={name}{var}"));
    }

    fn bad(&mut self) -> &'static str {
        let bad = [" @null", " @low", " @ro", " @none", " @edge", " @kernel", " @odd"];
        if self.rng.percent(6) { self.one(&bad) } else { "" }
    }

    /// Owner, group and mode for IPC_SET.
    fn perm(&mut self) -> String {
        let uid = self.one(&["0", "0", "1001", "1002", "1003", "-1"]);
        let gid = self.one(&["0", "0", "1001", "1002", "1003", "-1"]);
        let mode = if self.rng.percent(10) { "0177777".into() } else { self.mode() };
        format!("{uid} {gid} {mode}")
    }

    // ---- semaphores ----

    fn sem(&mut self) {
        match self.rng.below(100) {
            0..12 => self.get(0),
            12..60 => self.semop(),
            60..97 => self.semctl(),
            _ => {
                let (n, id) = (self.one(&["499", "500", "501", "32001", "-1"]), self.id(0));
                let op = self.one(&["0:1", "0:0:nowait", "0:-1:nowait", "1:1:undo"]);
                let bad = self.bad();
                self.push(format!("semmany {id} {n} {op}{bad}"));
            }
        }
    }

    fn op(&mut self, nsems: usize) -> String {
        let num = match self.rng.below(40) {
            0 => nsems.to_string(),
            1 => "65535".into(),
            _ => self.rng.below(nsems.min(5)).to_string(),
        };
        let mut op = self.one(&[-1, -1, -1, 1, 1, 1, 1, 0, 0, 2, -2, 3, -3, 5, -5]).to_string();
        if self.rng.percent(5) {
            op = self.one(&["32767", "-32767", "-32768", "30000", "-30000"]).into();
        }
        let mut flags = Vec::new();
        if self.rng.percent(25) {
            flags.push("undo");
        }
        if self.rng.percent(30) {
            flags.push("nowait");
        }
        if self.rng.percent(1) {
            flags.push("0x4000");
        }
        if flags.is_empty() {
            format!("{num}:{op}")
        } else {
            format!("{num}:{op}:{}", flags.join("|"))
        }
    }

    fn semop(&mut self) {
        let id = self.id(0);
        let var = id[1..].parse().unwrap_or(0usize).min(VARIABLES - 1);
        let nsems = self.nsems[var].max(1);
        let n = match self.rng.below(20) {
            0 => 0,
            1..11 => 1,
            11..16 => 2,
            16..19 => 2 + self.rng.below(3),
            _ => 5 + self.rng.below(20),
        };
        let ops: Vec<_> = (0..n).map(|_| self.op(nsems)).collect();
        let (ops, bad) = (ops.join(" "), self.bad());
        if self.rng.percent(75) {
            self.push(format!("semop {id} {ops}{bad}"));
        } else {
            let times = [
                "none", "zero", "short", "long", "long", "forever", "negative", "nanos", "nowhere",
            ];
            let time = self.one(&times);
            self.push(format!("semtimedop {id} {time} {ops}{bad}"));
        }
    }

    fn semctl(&mut self) {
        let (id, bad) = (self.id(0), self.bad());
        let mut num = self.rng.below(4).to_string();
        if self.rng.percent(6) {
            num = self.one(&["-1", "250", "65536", "0x7fffffff"]).into();
        }
        let step = match self.rng.below(100) {
            0..10 => format!("{id} {num} getval"),
            10..16 => format!("{id} {num} getpid"),
            16..24 => format!("{id} {num} getncnt"),
            24..32 => format!("{id} {num} getzcnt"),
            32..50 => {
                let values = ["0", "0", "1", "1", "2", "3", "10", "32767", "32768", "-1"];
                format!("{id} {num} setval {}", self.one(&values))
            }
            50..60 => format!("{id} {num} getall{bad}"),
            60..70 => {
                let n = self.rng.below(4) + 1;
                let values = ["0", "1", "2", "3", "7", "32767", "32768"];
                let all: Vec<_> = (0..n).map(|_| self.one(&values[..6 + n / 4])).collect();
                format!("{id} {num} setall {}{bad}", all.join(" "))
            }
            70..76 => format!("{id} {num} stat{bad}"),
            76..82 => format!("{id} {num} set {}{bad}", self.perm()),
            82..84 => format!("{id} {num} rmid"),
            84..90 => format!("{} {num} semstat{bad}", self.index(0)),
            90..94 => format!("{} {num} semany{bad}", self.index(0)),
            94..96 => format!("{} {num} seminfo{bad}", self.one(&["0", "-1", "s0"])),
            96..98 => format!("{} {num} ipcinfo{bad}", self.one(&["0", "-1", "s0"])),
            _ => format!("{id} {num} {}", self.one(&["99", "-1", "21", "0x102", "4", "11|0x100"])),
        };
        self.push(format!("semctl {step}"));
    }

    // ---- segments ----

    fn shm(&mut self) {
        match self.rng.below(100) {
            0..12 => self.get(1),
            12..40 => self.shmat(),
            40..52 => {
                let at = self.attached();
                self.push(format!("shmdt {at}"));
            }
            52..75 => self.memory(),
            _ => self.shmctl(),
        }
    }

    fn address(&mut self) -> String {
        let at = if self.rng.percent(30) { 'a' } else { 'f' };
        let n = self.rng.below(3);
        let offset = match self.rng.below(12) {
            0 => "+0x1000",
            1 => "+0x800",
            2 => "+0x2000",
            _ => "",
        };
        format!("{at}{n}{offset}")
    }

    /// Mostly where something may be attached.
    fn attached(&mut self) -> String {
        let places = self.places.clone();
        if places.is_empty() || self.rng.percent(20) { self.address() } else { self.one(&places) }
    }

    fn shmat(&mut self) {
        let id = self.id(1);
        let mut flags = Vec::new();
        for (flag, chance) in [("rdonly", 25), ("rnd", 20), ("remap", 15), ("exec", 8)] {
            if self.rng.percent(chance) {
                flags.push(flag);
            }
        }
        if self.rng.percent(2) {
            flags.push("0x100000");
        }
        let flags = if flags.is_empty() { "0".into() } else { flags.join("|") };
        let at: String = match self.rng.below(20) {
            0..6 => "null".into(),
            6 => self.one(&["0x7ffffffff000", "0xffffffffffff0000", "0x8000000000000000"]).into(),
            _ => self.address(),
        };
        let var = self.rng.below(3);
        if at.starts_with(['f', 'n']) {
            let place = if at.starts_with('n') { format!("a{var}") } else { at.clone() };
            self.places.push(place.split('+').next().unwrap_or_default().to_owned());
            let extra = self.places.len().saturating_sub(3);
            self.places.drain(..extra);
        }
        self.push(format!("shmat {id} {at} {flags} =a{var}"));
    }

    fn memory(&mut self) {
        let n = self.one(&["0x1000", "0x1000", "0x2000", "0x10000", "1"]);
        let at = Some(self.attached()).filter(|a| a.starts_with('f') && !a.contains('+'));
        let at = at.unwrap_or_else(|| format!("f{}", self.rng.below(3)));
        let page = self.one(&["", "", "+0x1000", "+0x2000", "+0x800"]);
        let any = self.attached();
        let step = match self.rng.below(10) {
            0..3 => format!("peek {any} {n}"),
            3..6 => format!("poke {any} {n} {}", self.rng.below(100)),
            6..8 => format!("munmap {at}{page} {n}"),
            8 => {
                let to = self.one(&["0", "r", "r", "r|w", "r|w", "r|x"]);
                format!("mprotect {at}{page} {n} {to}")
            }
            _ => format!("mmap {at}{page} {n}"),
        };
        self.push(step);
    }

    fn shmctl(&mut self) {
        let (id, bad) = (self.id(1), self.bad());
        let step = match self.rng.below(100) {
            0..20 => format!("{id} stat{bad}"),
            20..35 => format!("{id} set {}{bad}", self.perm()),
            35..42 => format!("{id} rmid"),
            42..57 => format!("{id} lock"),
            57..64 => format!("{id} unlock"),
            64..74 => format!("{} shmstat{bad}", self.index(1)),
            74..84 => format!("{} shmany{bad}", self.index(1)),
            84..90 => format!("{} shminfo{bad}", self.one(&["0", "-1", "m0"])),
            90..96 => format!("{} ipcinfo{bad}", self.one(&["0", "-1", "m0"])),
            _ => format!("{id} {}", self.one(&["99", "-1", "16", "0x102", "4"])),
        };
        self.push(format!("shmctl {step}"));
    }

    // ---- queues ----

    fn msg(&mut self) {
        match self.rng.below(100) {
            0..12 => self.get(2),
            12..42 => {
                let (id, bad) = (self.id(2), self.bad());
                let mut mtype = (1 + self.rng.below(4)).to_string();
                if self.rng.percent(8) {
                    mtype = self.one(&["0", "-1", "min", "max"]).into();
                }
                let size = self.size();
                let flags = if self.rng.percent(30) { "nowait" } else { "0" };
                self.push(format!("msgsnd {id} {mtype} {size} {flags}{bad}"));
            }
            42..72 => self.msgrcv(),
            _ => self.msgctl(),
        }
    }

    fn size(&mut self) -> &'static str {
        if self.rng.percent(6) {
            return self.one(&["8193", "-1", "0x7fffffff", "0x80000000", "0x100000000", "min"]);
        }
        self.one(&["0", "1", "5", "100", "100", "3000", "4048", "4049", "8000", "8192"])
    }

    fn msgrcv(&mut self) {
        let (id, bad) = (self.id(2), self.bad());
        let mut size = self.one(&["8192", "8192", "8192", "65536", "100", "5", "0"]);
        if self.rng.percent(4) {
            size = self.one(&["-1", "0x7fffffff", "0x80000000", "0x100000000", "min"]);
        }
        let types = ["0", "0", "0", "1", "2", "3", "-1", "-2", "-3", "-4", "min", "max", "-100"];
        let mtype = self.one(&types);
        let mut flags = Vec::new();
        for (flag, chance) in [("nowait", 45), ("noerror", 30), ("except", 15), ("copy", 10)] {
            if self.rng.percent(chance) {
                flags.push(flag);
            }
        }
        let flags = if flags.is_empty() { "0".into() } else { flags.join("|") };
        self.push(format!("msgrcv {id} {size} {mtype} {flags}{bad}"));
    }

    fn msgctl(&mut self) {
        let (id, bad) = (self.id(2), self.bad());
        let step = match self.rng.below(100) {
            0..20 => format!("{id} stat{bad}"),
            20..48 => {
                let all =
                    ["16384", "16384", "16385", "100", "5", "0", "10000", "0x7fffffff", "max"];
                let qbytes = self.one(&all);
                format!("{id} set {} {qbytes}{bad}", self.perm())
            }
            48..52 => format!("{id} rmid"),
            52..70 => format!("{} msgstat{bad}", self.index(2)),
            70..80 => format!("{} msgany{bad}", self.index(2)),
            80..88 => format!("{} msginfo{bad}", self.one(&["0", "-1", "q0"])),
            88..96 => format!("{} ipcinfo{bad}", self.one(&["0", "-1", "q0"])),
            _ => format!("{id} {}", self.one(&["99", "-1", "14", "0x102", "4"])),
        };
        self.push(format!("msgctl {step}"));
    }

    // ---- processes ----

    fn life(&mut self) {
        let who = self.rng.below(self.workers);
        match self.rng.below(100) {
            0..25 => {
                let new = self.workers + self.rng.below(8 - self.workers);
                let new = if self.rng.percent(30) { who } else { new };
                self.push(format!("fork {new}"));
            }
            25..35 => self.push("exec".into()),
            35..47 => self.steps.push(format!("- kill {}", self.rng.below(self.workers + 1))),
            47..55 => {
                let how = self.one(&["exit", "quit"]);
                self.push(how.into());
            }
            55..65 => self.steps.push(format!("- spawn {who}")),
            65..85 => self.steps.push(format!("- signal {who}")),
            85..93 => self.steps.push(format!("- stop {who}")),
            _ => {
                let how = self.one(&["restart", "plain"]);
                self.push(format!("handler {how}"));
            }
        }
    }

    fn user(&mut self) {
        let persona = self.rng.below(9);
        self.push(format!("persona {persona}"));
    }
}

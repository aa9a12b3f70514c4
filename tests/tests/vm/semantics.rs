//! The table "Across VMs" of `docs/semantics.md`, row by row, with two guests and the host.
//! (`ids` and the rows on deaths have tests of their own.)

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use vshmem_tests::run::run;

use crate::deaths::{Pair, Stage};
use crate::{LIMIT, PATH};

/// Who runs a program.
#[derive(Clone, Copy)]
enum Who {
    Host,
    Guest(usize),
}

/// What a run of `across` told.
type Told = HashMap<String, i64>;

/// Runs a line of shell, in which `$V` begins a program under vshmem, and gives what it printed.
fn lines(pair: &mut Pair, who: Who, script: &str) -> Result<Vec<String>> {
    let vshmem = pair.host.session().artifacts().vshmem.display().to_string();
    let under = format!("{vshmem} run --region {} --", pair.host.region());
    let script = script.replace("$V", &under);
    match who {
        Who::Host => {
            let mut shell = pair.host.session().command("sh");
            let outcome = run(shell.current_dir(pair.host.folder()).args(["-c", &script]), LIMIT)?;
            ensure!(outcome.good(), "{script}: {}\n{}", outcome.end, outcome.stderr);
            Ok(outcome.stdout.lines().map(str::to_owned).collect())
        }
        Who::Guest(guest) => {
            pair.guests.tell(guest, &format!("{{ {script}; }}; echo over"))?;
            let mut said = Vec::new();
            loop {
                match pair.guests.expect_line(guest, LIMIT)? {
                    line if line == "over" => return Ok(said),
                    line => said.push(line),
                }
            }
        }
    }
}

fn across(pair: &mut Pair, who: Who, prefix: &str, step: &str, first: char) -> Result<Told> {
    let said = lines(pair, who, &format!("$V {prefix} ./across {step} {PATH} {first}"))?;
    let [line] = said.as_slice() else { bail!("{step}: {said:?}") };
    let pairs = line.split_whitespace().map(|pair| {
        let (name, value) = pair.split_once('=').context("no name=value")?;
        Ok((name.to_owned(), value.parse()?))
    });
    pairs.collect::<Result<_>>().with_context(|| format!("{step}: {line}"))
}

const PIDS: [&str; 5] = ["cpid", "lpid", "sempid", "lspid", "lrpid"];

fn same(a: &Told, b: &Told, names: &[&str]) -> Result<()> {
    for name in names {
        ensure!(a.get(*name).is_some() && a.get(*name) == b.get(*name), "{name}: {a:?} and {b:?}");
    }
    Ok(())
}

fn pids_keys_ids_and_times_are_as_defined_across_kernels(pair: &mut Pair) -> Result<()> {
    let (a, b) = (Who::Guest(pair.a), Who::Guest(pair.b));
    for (maker, others) in [(a, [b, Who::Host]), (Who::Host, [a, b])] {
        let made = across(pair, maker, "", "make", 'a')?;
        ensure!(PIDS.iter().all(|p| made[*p] == made["pid"]), "to itself: {made:?}");
        let seen = across(pair, maker, "", "look", 'a')?;
        same(&made, &seen, &PIDS)?;
        ensure!(seen["pid"] != made["pid"], "the same process: {seen:?}");
        for other in others {
            let seen = across(pair, other, "", "look", 'a')?;
            ensure!(PIDS.iter().all(|p| seen[*p] == 0), "pids of another kernel: {seen:?}");
            same(&made, &seen, &["keym", "keys", "keyq", "idm", "ids", "idq"])?;
            same(&made, &seen, &["made", "atime", "otime", "stime", "rtime"])?;
        }
        across(pair, others[0], "", "drop", 'a')?;
    }
    Ok(())
}

fn users_are_the_same_across_kernels(pair: &mut Pair) -> Result<()> {
    const EACCES: i64 = 13;
    let (a, b) = (Who::Guest(pair.a), Who::Guest(pair.b));
    let user = |id| format!("setpriv --reuid {id} --regid {id} --clear-groups");
    let made = across(pair, a, &user(4321), "make", 'd')?;
    ensure!(["uid", "gid", "cuid", "cgid"].iter().all(|n| made[*n] == 4321), "{made:?}");
    for other in [b, Who::Host] {
        same(&made, &across(pair, other, "", "look", 'd')?, &["uid", "gid", "cuid", "cgid"])?;
        same(&made, &across(pair, other, &user(4321), "look", 'd')?, &["uid", "idm"])?;
        // Mode 0600: reading the state is not for others.
        let said =
            lines(pair, other, &format!("$V {} ./across look {PATH} d 2>&1 || true", user(4322)))?;
        let denied =
            said.iter().any(|l| l.contains("Permission denied") || *l == format!("errno={EACCES}"));
        ensure!(denied, "another user sees it: {said:?}");
    }
    across(pair, b, &user(4321), "drop", 'd').map(drop)
}

fn limits_change_at_once_across_kernels(pair: &mut Pair) -> Result<()> {
    let all = [Who::Guest(pair.a), Who::Guest(pair.b), Who::Host];
    let show = "$V cat /proc/sys/kernel/sem /proc/sys/kernel/shmmni /proc/sys/kernel/msgmax";
    let before = lines(pair, Who::Host, show)?;
    for (n, writer) in all.into_iter().enumerate() {
        let set = format!(
            "$V sh -c 'echo 250 32000 32 9{n} >/proc/sys/kernel/sem; echo 1{n}2 >/proc/sys/kernel/shmmni; \
             echo 20{n} >/proc/sys/kernel/msgmax'"
        );
        lines(pair, writer, &set)?;
        for reader in all {
            let said = lines(pair, reader, show)?;
            let wanted = [format!("250\t32000\t32\t9{n}"), format!("1{n}2"), format!("20{n}")];
            ensure!(said == wanted, "{said:?}, not {wanted:?}");
        }
    }
    // The kernels' own are as ever.
    let own = lines(pair, all[0], "cat /proc/sys/kernel/msgmax")?;
    ensure!(own == ["8192"], "the guest's own limit is {own:?}");
    let [sem, shmmni, msgmax] = before.as_slice() else { bail!("{before:?}") };
    let back =
        format!("$V sysctl -q -w kernel.sem='{sem}' kernel.shmmni={shmmni} kernel.msgmax={msgmax}");
    lines(pair, all[1], &back)?;
    let now = lines(pair, all[2], show)?;
    ensure!(now == before, "{now:?}, not {before:?}");

    // What one kernel made is listed on the other.
    let made = across(pair, all[0], "", "make", 'g')?;
    let listed = lines(pair, all[1], "$V ipcs -m; $V cat /proc/sysvipc/msg")?;
    for id in ["idm", "idq"] {
        let id = made[id].to_string();
        ensure!(
            listed.iter().any(|l| l.split_whitespace().nth(1) == Some(&id)),
            "no {id}: {listed:?}"
        );
    }
    across(pair, all[1], "", "drop", 'g').map(drop)
}

fn times_are_of_one_clock_across_kernels(pair: &mut Pair) -> Result<()> {
    /// What a clock's seconds and a busy machine may differ by.
    const CLOSE: i64 = 3;
    let here = || SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs().cast_signed());
    let b = Who::Guest(pair.b);
    lines(pair, b, "date -s '+1 hour' >/dev/null")?;
    // Its agent is told of the change, and measures.
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = loop {
        let made = across(pair, b, "", "make", 'j')?;
        across(pair, Who::Host, "", "drop", 'j')?;
        let off = made["made"].abs_diff(here()?);
        if off <= CLOSE.unsigned_abs() {
            break made;
        }
        ensure!(Instant::now() < deadline, "its times are still {off} s off");
    };
    ensure!(told["now"] - told["made"] > 3000, "its own clock was not set: {told:?}");
    for time in ["atime", "otime", "stime", "rtime"] {
        ensure!(told[time].abs_diff(told["made"]) <= CLOSE.unsigned_abs(), "{time}: {told:?}");
    }
    // In the order in which they were made, whoever made them.
    let mut last = 0;
    for (letter, who) in ['m', 'p', 's', 'v'].into_iter().zip([b, Who::Host, Who::Guest(pair.a), b])
    {
        let made = across(pair, who, "", "make", letter)?["made"];
        ensure!(made >= last, "made at {made}, after {last}");
        last = made;
        across(pair, Who::Host, "", "drop", letter)?;
    }
    lines(pair, b, "date -s '-1 hour' >/dev/null").map(drop)
}

/// The tests, on the stage of the deaths.
pub fn trials(stage: &Stage) -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(stage.trial(stringify!($name), $name)),*]
        };
    }
    trials![
        pids_keys_ids_and_times_are_as_defined_across_kernels,
        users_are_the_same_across_kernels,
        limits_change_at_once_across_kernels,
        times_are_of_one_clock_across_kernels,
    ]
}

//! Which objects guests share, and with whom: rules, and what is withdrawn.

use anyhow::{Result, ensure};
use vshmem_tests::build;
use vshmem_tests::guests::{Guests, Host};

use crate::deaths::Pair;
use crate::{LIMIT, PATH};

const TWO: &str = r#"
[[region]]
name = "test"
size = "64M"
number = 1
[[region]]
name = "blue"
size = "64M"
number = 7
"#;

/// Two guests, each in two regions: semaphores and messages go through one, segments through the
/// other. Then one process of a guest works in both and in its own kernel.
pub fn rules_lead_to_two_regions_in_guests_too() -> Result<()> {
    let host = Host::configured("test", TWO)?;
    build::compile(&build::programs().join("regions/several.c"), host.folder())?;
    let vshmem = host.session().artifacts().vshmem.display().to_string();
    let meet = |role| {
        format!(
            "'{vshmem}' run --region test --share 'sem:*,msg:*' --share 'shm:*=blue' -- ./handshake {role} {PATH}"
        )
    };
    let rules = "--share 0x1000-0x1fff,msg:private=test --share 0x2000-0x2fff=blue";
    let alone = format!("echo alone; '{vshmem}' run {rules} -- ./several");
    let mut guests = Guests::new(&host);
    for (name, line) in [("a", format!("{} && {alone}", meet('a'))), ("b", meet('b'))] {
        guests.boot(name, &["--region", "blue"], &["sh", "-c", &line])?;
    }
    let said = guests.finish(LIMIT)?;
    let lines = said[0].iter().skip_while(|l| *l != "alone").skip(1);
    let expected = include_str!("../../programs/regions/several.expected");
    let differs =
        vshmem_tests::diff::diff(expected, &lines.map(|l| format!("{l}\n")).collect::<String>());
    ensure!(differs.is_empty(), "{differs}");
    host.stop()
}

/// The first line of a guest that begins so, in words.
fn words(pair: &mut Pair, guest: usize, begin: &str) -> Result<Vec<String>> {
    loop {
        let line = pair.guests.expect_line(guest, LIMIT)?;
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        if words[0] == begin {
            return Ok(words);
        }
    }
}

pub fn what_is_unshared_is_gone_for_other_guests(pair: &mut Pair) -> Result<()> {
    let (a, b) = (pair.a, pair.b);
    let vshmem = pair.host.session().artifacts().vshmem.display().to_string();
    let unshare = format!("'{vshmem}' unshare --region {}", pair.host.region());
    pair.start(a, "H make add=0 ids")?;
    let ids = words(pair, a, "ids")?;
    let [_, set, shm, queue, key] = &ids[..] else { anyhow::bail!("{ids:?}") };
    // Somebody asleep in each guest and on the host, with the segment attached elsewhere.
    pair.start(b, "H find attach say=here dismissed=1 say=dismissed denied say=denied pause")?;
    pair.says(b, "here")?;
    let other = pair.task_here("H find dismissed=1 denied")?;
    pair.start(a, "H find attach take=2 say=woken")?;
    pair.here("H find waiters=1:2 waiters=2:1 attached=2")?;

    // By key and by id, once it is known who has it.
    let tell = format!(
        "{unshare} -M {key} -S {key} -q {queue} 2>/tmp/told; echo unshared $?; cat /tmp/told"
    );
    pair.guests.tell(a, &tell)?;
    ensure!(words(pair, a, "unshared")?[1] == "3", "somebody has it attached");
    let told = pair.guests.expect_line(a, LIMIT)?;
    ensure!(told.contains(&format!("segment {shm} is withdrawn")), "{told}");
    let named = pair.guests.expect_line(a, LIMIT)?;
    ensure!(named.contains("(steps) of b"), "{named}");
    pair.says(b, "dismissed")?;
    pair.says(b, "denied")?;
    other.ends_well(LIMIT)?;
    pair.here("H absent")?;

    // Here it goes on, by id.
    pair.start(
        a,
        &format!("H absent set={set} shm={shm} queue={queue} waiters=2:1 add=2 send=3 receive=3"),
    )?;
    pair.says(a, "woken")?;
    // Nobody else's, it is out of reach for the host's root too.
    let mut remove = pair.host.session().vshmem();
    remove.args(["ipcrm", "--region", pair.host.region(), "-s", set]);
    let outcome = vshmem_tests::run::run(&mut remove, LIMIT)?;
    ensure!(outcome.end == "exit 1" && outcome.stderr.contains("no semaphore set"), "{outcome:?}");
    // The last one who has it attached leaves: nothing is left to tell.
    pair.guests.tell(b, "kill -9 $task; wait $task; echo killed")?;
    pair.says(b, "killed")?;
    pair.start(a, &format!("H shm={shm} attached=0 say=detached"))?;
    pair.says(a, "detached")?;
    pair.guests.tell(a, &format!("{unshare} -m {shm}; echo unshared $?"))?;
    ensure!(words(pair, a, "unshared")?[1] == "0", "nobody has it attached");
    let remove =
        format!("'{vshmem}' ipcrm --region {} -s {set} -m {shm} -q {queue}", pair.host.region());
    pair.guests.tell(a, &format!("{remove}; echo removed $?"))?;
    ensure!(words(pair, a, "removed")?[1] == "0", "it is its guest's");
    Ok(())
}

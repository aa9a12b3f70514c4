//! `vshmem region limits` and `vshmem region set`.

use crate::args;
use crate::listing::{Format, format, print, print_json, session, table};
use anyhow::{anyhow, bail};
use serde::Serialize;
use std::path::Path;
use vshmem::Limit;
use vshmem::sysv::proc::File;

#[derive(Serialize)]
struct Row {
    limit: &'static str,
    value: u64,
    most: u64,
}

/// `vshmem region limits`.
pub fn list(runtime_dir: &Path, args: &args::List) -> anyhow::Result<()> {
    let session = session(runtime_dir, args.at.region.as_deref())?;
    let region = session.region()?;
    let mut rows = Vec::new();
    for limit in Limit::ALL {
        let most = region.geometry().limit_max(limit);
        rows.push(Row { limit: limit.name(), value: region.limit(limit)?, most });
    }
    if format(&args.format) == Format::Json {
        return print_json(&rows);
    }
    let row = |r: &Row| vec![r.limit.to_owned(), r.value.to_string(), r.most.to_string()];
    let rows: Vec<_> = rows.iter().map(row).collect();
    print(&table(&["LIMIT", "VALUE", "AT MOST"], &rows))
}

/// `vshmem region set`: all of them, or none.
pub fn set(runtime_dir: &Path, args: &args::Set) -> anyhow::Result<()> {
    let session = session(runtime_dir, args.at.region.as_deref())?;
    let region = session.region()?;
    let (name, owner) = (region.name()?, region.owner()?);
    for (limit, value) in &args.limits {
        let most = region.geometry().limit_max(*limit);
        if *value > most {
            bail!(
                "region {name}: {}={value}: it has room for {most}; lower the limit, or give the \
                 region a larger size in vshmemd's configuration",
                limit.name()
            );
        }
    }
    session.call(|r, _, c| File::Sem.writable(r, c)).map_err(|_| {
        anyhow!("region {name}: only root and its owner (uid {owner}) may set its limits")
    })?;
    for (limit, value) in &args.limits {
        region.set_limit(*limit, *value)?;
    }
    if args.limits.contains(&(Limit::ShmRmidForced, 1)) {
        session.call(|r, on, _| vshmem::sysv::shm::destroy_orphans(r, on))?;
    }
    Ok(())
}

//! `vshmem top`: what goes on in a region.

mod live;
mod notes;
mod process;
mod sample;
mod text;

use crate::args::Top;
use crate::listing::{self, Format, format};
use sample::{Look, Since, view};
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// Between the two looks of `--once`.
const APART: Duration = Duration::from_millis(300);

/// `vshmem top`.
pub fn run(runtime_dir: &Path, args: &Top) -> anyhow::Result<()> {
    let session = listing::session(runtime_dir, args.at.region.as_deref())?;
    let json = format(&args.format) == Format::Json;
    if !args.once && !json && std::io::stdout().is_terminal() {
        return live::run(&session);
    }
    let before = Look::take(&session)?;
    std::thread::sleep(APART);
    let view = view(&before, &Look::take(&session)?, &mut Since::default());
    if json {
        return listing::print_json(&view);
    }
    listing::print(&text::text(&view))
}

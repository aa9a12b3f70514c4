//! The view on a terminal, again and again.

use super::sample::{Look, Since, view};
use super::text::text;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::style::Style;
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;
use std::time::{Duration, Instant};
use vshmem::Session;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows it until `q`, Escape or Ctrl-C.
pub fn run(session: &Session) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, session);
    // Also after an error: the shell wants its terminal back.
    ratatui::restore();
    shown
}

fn show(terminal: &mut ratatui::DefaultTerminal, session: &Session) -> anyhow::Result<()> {
    let (mut since, mut scroll) = (Since::default(), 0_u16);
    let mut before = Look::take(session)?;
    std::thread::sleep(PERIOD / 4);
    loop {
        let now = Look::take(session)?;
        let shown = text(&view(&before, &now, &mut since));
        before = now;
        let until = Instant::now() + PERIOD;
        loop {
            terminal.draw(|frame| {
                let page = Paragraph::new(coloured(&shown)).scroll((scroll, 0));
                frame.render_widget(page, frame.area());
            })?;
            if !event::poll(until.saturating_duration_since(Instant::now()))? {
                break;
            }
            if let Event::Key(key) = event::read()? {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                        return Ok(());
                    }
                    KeyCode::Down | KeyCode::Char('j') => scroll = scroll.saturating_add(1),
                    KeyCode::Up | KeyCode::Char('k') => scroll = scroll.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }
}

/// Notes stand out, and so do headings and who is stopped.
fn coloured(shown: &str) -> Text<'_> {
    let line = |line| {
        let style = match line {
            l if str::starts_with(l, "! ") => Style::new().yellow().bold(),
            l if l.contains("STOPPED") || l.contains("fenced") => Style::new().red(),
            l if l.starts_with("PEER ") || l.starts_with("KIND ") => Style::new().reversed(),
            _ => Style::new(),
        };
        Line::styled(line, style)
    };
    shown.lines().map(line).collect()
}

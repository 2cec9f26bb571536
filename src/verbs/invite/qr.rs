//! A QR code (ISO/IEC 18004) as lines of half blocks, two rows of modules in each.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code, which readers need to find it (section 5.3.8).
const QUIET: usize = 4;
/// White on black whatever the terminal's colours are, from the fixed part of its palette.
const COLOURS: &str = "\x1b[38;5;231;48;5;16m";
const RESET: &str = "\x1b[0m";

/// The code for `text`, a line end after each line; none if it is too long for one (2,953 bytes).
///
/// Blocks are the light modules. With `colours` each line sets its own; without, the text looks
/// right where light is written on dark, as on most terminals.
pub(super) fn draw(text: &str, colours: bool) -> Option<String> {
    // The lowest correction level: a screen is not torn or dirty, and smaller codes fit.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, modules) = (code.width(), code.to_colors());
    let light = |x: usize, y: usize| {
        let inside = |i: usize| i.checked_sub(QUIET).filter(|i| *i < width);
        let module = inside(x).zip(inside(y)).and_then(|(x, y)| modules.get(y * width + x));
        module != Some(&Color::Dark)
    };
    let size = width + 2 * QUIET;
    let mut out = String::new();
    for y in (0..size).step_by(2) {
        if colours {
            out.push_str(COLOURS);
        }
        for x in 0..size {
            // The number of rows is odd: the last line's lower half lies outside, and is light.
            out.push(match (light(x, y), light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        if colours {
            out.push_str(RESET);
        }
        out.push('\n');
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_framed_and_square() {
        let text = draw("https://broker.example/i/0#1", false).unwrap();
        let lines: Vec<Vec<char>> = text.lines().map(|l| l.chars().collect()).collect();
        assert!(lines.iter().all(|l| l.len() == lines[0].len() && lines.len() * 2 - 1 == l.len()));
        for line in [&lines[0], &lines[1], &lines[lines.len() - 1]] {
            assert!(line.iter().all(|c| *c == '█'), "the quiet zone is light");
        }
        let coloured = draw("https://broker.example/i/0#1", true).unwrap();
        assert_eq!(coloured.replace(COLOURS, "").replace(RESET, ""), text);
        assert!(draw(&"x".repeat(3_000), false).is_none());
    }
}

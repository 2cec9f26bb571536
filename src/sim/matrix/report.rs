//! The matrix as one HTML file that needs nothing else.

use super::play::Outcome;

const PAGE: &str = include_str!("report.html");
/// Where the outcomes go.
const DATA: &str = "\"DATA\"";

/// A page with the heat map of all outcomes and, for a chosen cell, what happened.
///
/// # Errors
/// None happens: outcomes are plain data.
pub fn html(outcomes: &[Outcome]) -> Result<String, serde_json::Error> {
    // Nothing in it may end the script that it stands in.
    let data = serde_json::to_string(outcomes)?.replace('<', "\\u003c");
    Ok(PAGE.replace(DATA, &data))
}

#[cfg(test)]
mod tests {
    use super::super::cell::Cell;
    use super::*;

    #[test]
    fn what_cells_say_cannot_end_the_script() {
        let cell = Cell::matching("open:open:v4").unwrap()[0];
        let outcome = Outcome::broken(cell, 1, "</script><b>".to_owned());
        let page = html(&[outcome]).unwrap();
        assert!(page.contains("\\u003c/script>\\u003cb>") && !page.contains(DATA));
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
    }
}

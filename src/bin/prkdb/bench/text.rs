//! Numbers and sentences as people read them.

/// Columns of a line.
pub const WIDTH: usize = 100;

/// A whole number, in groups of three digits.
pub fn rounded(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".into() };
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// About three digits.
pub fn short(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        some => rounded(some),
    }
}

/// `text` broken into lines, those behind the first set in.
pub fn wrapped(text: &str) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            out += "\n  ";
            column = 2;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += word.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(rounded(Some(1_234_567.8)), "1,234,568");
        assert_eq!(rounded(Some(999.0)), "999");
        assert_eq!(rounded(None), "-");
        assert_eq!(short(Some(1.234)), "1.23");
        assert_eq!(short(Some(12.34)), "12.3");
        assert_eq!(short(Some(1234.5)), "1,234");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("a b"), "a b");
        let long = format!("{} b", "a".repeat(WIDTH - 1));
        assert_eq!(wrapped(&long), format!("{}\n  b", "a".repeat(WIDTH - 1)));
    }
}

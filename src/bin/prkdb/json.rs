//! One JSON object a line, its fields in the order they were given.

use prkdb_core::Lsn;
use serde_json::Value;

/// The object with these fields, without a newline.
pub fn object(fields: &[(&str, Value)]) -> String {
    let mut line = String::from("{");
    for (at, (name, value)) in fields.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        line.push_str(&format!("{comma}{}:{value}", Value::from(*name)));
    }
    line.push('}');
    line
}

/// The LSN's number, or null.
pub fn lsn(lsn: Option<Lsn>) -> Value {
    lsn.map(Lsn::get).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_escaped_and_keep_their_order() {
        let line = object(&[("z", "a \"b\"\n".into()), ("a", lsn(None)), ("n", 7.into())]);
        assert_eq!(line, r#"{"z":"a \"b\"\n","a":null,"n":7}"#);
    }
}

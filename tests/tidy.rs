//! Rules of the source that no compiler checks: layers, sizes, ASCII, where unsafe may stand.
//!
//! ```text
//! *.rs --> code(): comments and literals blanked --> one checker a rule --> findings
//! ```
//!
//! Each checker is also shown a bad sample here: a rule that can't fail is worth nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

const MAX_COLUMNS: usize = 100;
const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;
const TEST_COMMAND: &str = "cargo test --all-features";

/// A module at the root of `src`: its layer, and the modules of its own layer that it may import.
struct Module(&'static str, u8, &'static [&'static str]);

/// Imports go to a lower layer, or to a module named here. `lib` may import everything.
const MODULES: &[Module] = &[
    Module("error", 0, &[]),
    Module("lsn", 0, &[]),
    Module("cast", 0, &[]),
    Module("bugs", 0, &[]),
    Module("sync", 0, &[]),
    Module("options", 0, &["error"]),
    Module("io", 1, &[]),
    Module("format", 1, &[]),
    Module("segment", 2, &[]),
    // The folder `wal`, and the name under which others import it.
    Module("wal", 3, &[]),
    Module("log", 3, &[]),
    Module("table", 3, &[]),
    Module("store", 4, &[]),
    Module("compat", 4, &[]),
    Module("fuzz", 4, &[]),
    Module("lib", 5, &[]),
];

/// Where unsafe may stand.
const UNSAFE: &[&str] = &[
    "src/io/uring",
    "src/io/mmap",
    "src/io/buf",
    "tests/fork.rs",
    "tests/shutdown.rs",
    "benches/yardstick/ring.rs",
];

// ---- reading source ---------------------------------------------------------------------------

/// `source` with comments and the insides of literals blanked: same lines, code only.
fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(&bytes[at..], at > 0 && is_word(bytes[at - 1])) + at;
        if end == at {
            out.push(bytes[at].into());
            at += 1;
        } else {
            // A pair of quotes keeps the place of a literal.
            out.push_str("\"\"");
            out.extend(bytes[at..end].iter().filter(|b| **b == b'\n').map(|_| '\n'));
            at = end;
        }
    }
    out
}

/// The length of the comment or literal that `rest` starts with, else 0.
fn skip(rest: &[u8], in_word: bool) -> usize {
    let find = |needle: &[u8], from: usize| {
        let found =
            rest.get(from..).and_then(|r| r.windows(needle.len()).position(|w| w == needle));
        found.map_or(rest.len(), |position| from + position + needle.len())
    };
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return find(b"*/", 2);
    }
    let raw = rest.iter().position(|b| !matches!(b, b'b' | b'r')).unwrap_or(0);
    let hashes = rest[raw..].iter().take_while(|b| **b == b'#').count();
    if !in_word && raw > 0 && rest[..raw].ends_with(b"r") && rest.get(raw + hashes) == Some(&b'"') {
        return find(&[b"\"", &vec![b'#'; hashes][..]].concat(), raw + hashes + 1);
    }
    match rest {
        [b'"', ..] => quoted(rest, b'"'),
        [b'\'', b'\\', ..] | [b'\'', _, b'\'', ..] => quoted(rest, b'\''),
        _ => 0,
    }
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The words of `code` and the offset behind each.
fn words(code: &str) -> impl Iterator<Item = (&str, usize)> {
    let bytes = code.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + bytes[at..].iter().position(|b| is_word(*b))?;
        at = bytes[start..].iter().position(|b| !is_word(*b)).map_or(bytes.len(), |n| start + n);
        Some((&code[start..at], at))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// `source` without the tests at its end.
fn without_tests(source: &str) -> &str {
    source.find("\nmod tests {").map_or(source, |at| &source[..=at])
}

// ---- the rules --------------------------------------------------------------------------------

type Findings = Vec<String>;

fn check_text(path: &str, text: &str) -> Findings {
    let mut found = Findings::new();
    for (index, line) in text.lines().enumerate() {
        if !line.is_ascii() {
            found.push(format!("{path}:{}: not ASCII", index + 1));
        }
        // A table in Markdown can't be broken into lines.
        if line.chars().count() > MAX_COLUMNS && !path.ends_with(".md") {
            found.push(format!("{path}:{}: more than {MAX_COLUMNS} columns", index + 1));
        }
    }
    found
}

fn check_file(path: &str, source: &str) -> Findings {
    let mut found = check_text(path, source);
    if !source.starts_with("//! ") {
        found.push(format!("{path}: does not start with what it is (`//! ..`)"));
    }
    let lines = without_tests(source).lines().count();
    if lines > MAX_FILE_LINES {
        found.push(format!("{path}: {lines} lines without tests, more than {MAX_FILE_LINES}"));
    }
    let code = code(source);
    found.extend(check_functions(path, &code));
    found.extend(check_words(path, &code));
    found.extend(check_imports(path, &code));
    found
}

fn check_functions(path: &str, code: &str) -> Findings {
    let mut found = Findings::new();
    for (_, at) in words(code).filter(|(word, _)| *word == "fn") {
        let Some(end) = body_end(&code[at..]) else {
            continue;
        };
        let lines = code[at..at + end].lines().count();
        if lines > MAX_FUNCTION_LINES {
            let name = words(&code[at..]).next().map_or("", |(name, _)| name);
            found.push(format!("{path}:{}: `{name}` has {lines} lines", line_of(code, at)));
        }
    }
    found
}

/// Where the body of the function ends whose `fn` stands before `code`; none if there is no body.
fn body_end(code: &str) -> Option<usize> {
    let is_pointer_type = !code.trim_start().starts_with(|c: char| c == '_' || c.is_alphabetic());
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().filter(|_| !is_pointer_type) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        match (depth, byte) {
            (0, b'}') => return Some(at + 1),
            (0, b';') => return None,
            _ => {}
        }
    }
    None
}

fn check_words(path: &str, code: &str) -> Findings {
    let mut found = Findings::new();
    for (word, end) in words(code) {
        let (next, line) = (&code[end..], line_of(code, end));
        if matches!(word, "todo" | "unimplemented" | "dbg") && next.starts_with('!') {
            found.push(format!("{path}:{line}: {word}!"));
        }
        if word == "unsafe" && !UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            found.push(format!("{path}:{line}: unsafe outside {UNSAFE:?}"));
        }
        let system = matches!(word, "libc" | "nix" | "io_uring") && next.starts_with("::");
        // Of the library: the command is a program of its own, and watches its own stdout.
        let may = ["src/io/", "src/bin/"].iter().any(|folder| path.starts_with(folder));
        if system && path.starts_with("src/") && !may {
            found.push(format!("{path}:{line}: only src/io names the operating system ({word})"));
        }
    }
    found
}

fn check_imports(path: &str, code: &str) -> Findings {
    // The command and the tests see the crate from outside: what they may name is what is public.
    let Some(inner) = path.strip_prefix("src/").filter(|inner| !inner.starts_with("bin/")) else {
        return Findings::new();
    };
    let name = inner.split(['/', '.']).next().unwrap_or("");
    let Some(module) = MODULES.iter().find(|module| module.0 == name) else {
        return vec![format!("{path}: `{name}` is not in the table of layers")];
    };
    let mut found = Findings::new();
    for (_, end) in
        words(code).filter(|(word, end)| *word == "crate" && code[*end..].starts_with("::"))
    {
        for target in targets(&code[end + 2..]) {
            let lower = MODULES.iter().any(|other| other.0 == target && other.1 < module.1);
            if !lower && target != name && !module.2.contains(&target) {
                let line = line_of(code, end);
                found.push(format!("{path}:{line}: layer {} imports crate::{target}", module.1));
            }
        }
    }
    found.extend(check_super(path, inner, code));
    found
}

/// The first names of a path or of a group of paths.
fn targets(rest: &str) -> Vec<&str> {
    let first = |text| words(text).next().map_or("", |(word, _)| word);
    let Some(group) = rest.strip_prefix('{') else {
        return vec![first(rest)];
    };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                names.push(first(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        if byte == b'}' && start == at + 1 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// `super::` must not climb out of the folder that is the layer.
fn check_super(path: &str, inner: &str, code: &str) -> Findings {
    let mut found = Findings::new();
    let levels = inner.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let tests = code.find("\nmod tests {").unwrap_or(code.len());
    let (mut climbed, mut last) = (0, 0);
    for (word, end) in words(code) {
        climbed = match word {
            "super" if code[last..end].starts_with("::") => climbed + 1,
            "super" => 1,
            _ => 0,
        };
        if climbed >= levels + usize::from(end > tests) {
            found.push(format!("{path}:{}: super:: leaves the layer", line_of(code, end)));
        }
        last = end;
    }
    found
}

fn check_commands(readme: &str, script: &str) -> Findings {
    let mut found = Findings::new();
    if script.lines().filter(|line| *line == TEST_COMMAND).count() != 1 {
        found.push(format!("ci/check does not run `{TEST_COMMAND}` once, on a line of its own"));
    }
    if !readme.lines().any(|line| line.trim() == TEST_COMMAND) {
        found.push(format!("README.md does not name `{TEST_COMMAND}`"));
    }
    found
}

// ---- the source -------------------------------------------------------------------------------

const SOURCE: &[&str] = &["src", "tests", "examples", "benches"];
const SCRIPTS: &[&str] = &["ci", ".ci"];

/// Every file below `folders` with this extension, as (path, text), sorted.
fn files(folders: &[&str], extension: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.ends_with("target") {
                // What a workspace of its own has built is nobody's source.
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().map_or("", |e| e.to_str().unwrap()) == extension {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn assert_none(found: Findings) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_source_file_keeps_the_rules() {
    let sources = files(SOURCE, "rs");
    for must in ["src/lib.rs", "src/io/mod.rs", "src/bin/prkdb/main.rs", "tests/tidy.rs"] {
        assert!(sources.iter().any(|(path, _)| path == must), "{must} was not looked at");
    }
    assert_none(sources.iter().flat_map(|(path, text)| check_file(path, text)).collect());
}

#[test]
fn documents_and_scripts_keep_the_rules() {
    let mut texts = [files(SOURCE, "md"), files(SOURCE, "sh"), files(SCRIPTS, "")].concat();
    texts.push(("README.md".into(), read("README.md")));
    assert!(texts.iter().any(|(path, _)| path == "ci/check"), "ci/check was not looked at");
    assert_none(texts.iter().flat_map(|(path, text)| check_text(path, text)).collect());
}

#[test]
fn readme_and_ci_run_the_same_tests() {
    assert_none(check_commands(&read("README.md"), &read("ci/check")));
}

// ---- the rules can fail -----------------------------------------------------------------------

fn assert_found(found: &Findings, what: &str) {
    assert!(found.iter().any(|line| line.contains(what)), "{what} not in {found:?}");
}

#[test]
fn text_that_is_wide_or_not_ascii_is_found() {
    let wide = "x".repeat(MAX_COLUMNS + 1);
    assert_found(&check_text("a.rs", &wide), "a.rs:1: more than 100 columns");
    assert_found(&check_text("a.rs", "x\n\u{e9}"), "a.rs:2: not ASCII");
    assert_none(check_text("a.md", &wide));
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let lines = |n: usize| "const A: u8 = 0;\n".repeat(n);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(MAX_FILE_LINES));
    let full = format!("//! A.\n{}{tests}", lines(MAX_FILE_LINES - 2));
    assert_none(check_file("src/io/a.rs", &full));
    let more = format!("//! A.\n{}{tests}", lines(MAX_FILE_LINES));
    assert_found(&check_file("src/io/a.rs", &more), "502 lines");
    assert_found(&check_file("src/io/a.rs", "fn a() {}\n"), "does not start with");
}

#[test]
fn a_long_function_is_found_whatever_its_signature() {
    let body = |n: usize| "let _a = ('}', \"}\"); // }\n".repeat(n);
    for head in ["fn f()", "fn f<'a, T: Iterator<Item = [u8; 4]>>(a: fn(u8)) -> T where T: A,"] {
        let fits = format!("{head} {{\n{}}}\n", body(MAX_FUNCTION_LINES - 2));
        assert_none(check_functions("a.rs", &code(&fits)));
        let long = format!("trait T {{ fn g(); }}\n{head} {{\n{}}}", body(MAX_FUNCTION_LINES));
        assert_found(&check_functions("a.rs", &code(&long)), "a.rs:2: `f` has 72 lines");
    }
}

#[test]
fn unfinished_code_and_unsafe_are_found_but_not_in_words_about_them() {
    let check = |path: &str, source: &str| check_words(path, &code(source));
    assert_found(&check("src/wal/a.rs", "fn a() { todo!() }"), "todo!");
    assert_found(&check("src/wal/a.rs", "dbg!(1)"), "dbg!");
    assert_found(&check("src/wal/a.rs", "unsafe { a() }"), "unsafe outside");
    assert_none(check("src/io/uring/ring.rs", "unsafe { a() }"));
    assert_none(check(
        "src/wal/a.rs",
        r##"// unsafe {} todo!()
        /* dbg!() */ let a = "unsafe"; let b = r#"todo!() " "#; expect(unsafe_code)"##,
    ));
    assert_found(&check("src/wal/a.rs", "libc::fork()"), "names the operating system");
    assert_none(check("src/io/a.rs", "libc::fork()"));
}

#[test]
fn an_import_upwards_or_sideways_is_found() {
    let check = |path: &str, source: &str| check_imports(path, &code(source));
    assert_found(&check("src/io/a.rs", "use crate::wal::Wal;"), "layer 1 imports crate::wal");
    assert_found(&check("src/io/a.rs", "let a = crate::format::A;"), "imports crate::format");
    let group = "use crate::{error::{Error, Result}, segment};";
    assert_found(&check("src/format/a.rs", group), "imports crate::segment");
    assert_eq!(check("src/format/a.rs", group).len(), 1);
    assert_found(&check("src/wal/a.rs", "use crate::Error;"), "imports crate::Error");
    assert_found(&check("src/new/a.rs", ""), "`new` is not in the table");
    assert_none(check(
        "src/wal/a.rs",
        "use crate::{io::{A, B}, segment}; pub(crate) use crate::wal::A;",
    ));
    assert_none(check("src/lib.rs", "use crate::wal::Wal;"));
}

#[test]
fn a_climb_out_of_the_layer_is_found() {
    let check = |path: &str, source: &str| check_imports(path, &code(source));
    assert_found(&check("src/wal/mod.rs", "use super::io;"), "leaves the layer");
    assert_found(&check("src/wal/a.rs", "use super::super::io;"), "leaves the layer");
    assert_none(check("src/wal/a.rs", "use super::b;"));
    assert_none(check("src/error.rs", "\nmod tests {\n    use super::*;\n}"));
}

#[test]
fn a_readme_that_promises_another_command_is_found() {
    let both = format!("{TEST_COMMAND}\n");
    assert_none(check_commands(&both, &both));
    assert_found(&check_commands("cargo test", &both), "README.md");
    assert_found(&check_commands(&both, "cargo test"), "ci/check");
}

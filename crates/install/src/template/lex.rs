//! A template's text into plain text and actions, and actions into tokens.
use super::TemplateError;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Text as it stands, already without the white space that neighbouring actions take away.
    Text(String),
    /// What stands between the braces, with its line.
    Action(Vec<Token>, u32),
}

/// A token of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A function, a keyword, `true`, `false` or `nil`.
    Word(String),
    /// `$name`, without the dollar; empty for `$` itself.
    Variable(String),
    /// `.name`; empty for `.` itself.
    Field(String),
    Text(String),
    Int(i64),
    Float(f64),
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Pipe,
    Comma,
    Open,
    Close,
    /// White space: `f .x` calls, `f.x` is a field.
    Space,
}

/// Splits a template. `name` is for messages.
pub(super) fn pieces(name: &str, text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let mut trim_next = false;
    loop {
        let (plain, action) = match rest.find("{{") {
            Some(at) => (&rest[..at], Some(&rest[at + 2..])),
            None => (rest, None),
        };
        let trims_before = action
            .is_some_and(|a| a.starts_with("- ") || a.starts_with("-\n") || a.starts_with("-\t"));
        let mut kept = plain;
        if trim_next {
            kept = kept.trim_start();
        }
        if trims_before {
            kept = kept.trim_end();
        }
        if !kept.is_empty() {
            out.push(Piece::Text(kept.to_owned()));
        }
        line += newlines(plain);
        let Some(action) = action else {
            return Ok(out);
        };
        let fail = |text: &str| TemplateError::new(name, line, text);
        let body = if trims_before { &action[1..] } else { action };
        let length = length_of(body).ok_or_else(|| fail("an action has no end }}"))?;
        let (inside, after) = (&body[..length], &body[length + 2..]);
        trim_next = ends_with_trim(inside);
        let inside = if trim_next {
            &inside[..inside.len() - 1]
        } else {
            inside
        };
        let trimmed = inside.trim();
        if !(trimmed.starts_with("/*") && trimmed.ends_with("*/")) {
            let tokens = tokens(inside).map_err(|text| fail(&text))?;
            out.push(Piece::Action(tokens, line));
        }
        line += newlines(&body[..length]);
        rest = after;
    }
}

fn newlines(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX)
}

fn ends_with_trim(inside: &str) -> bool {
    inside.ends_with(" -") || inside.ends_with("\n-") || inside.ends_with("\t-")
}

/// Where the action's `}}` stands: not in a text, not in a comment.
fn length_of(body: &str) -> Option<usize> {
    if body.trim_start().starts_with("/*") {
        let end = body.find("*/")?;
        return body[end..].find("}}").map(|at| end + at);
    }
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while *bytes.get(at)? != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'`' => {
                at += 1;
                while *bytes.get(at)? != b'`' {
                    at += 1;
                }
            }
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        let name_length = |text: &str| text.find(|c| !is_name(c)).unwrap_or(text.len());
        let (token, left) = match first {
            c if c.is_whitespace() => (Token::Space, after.trim_start()),
            '|' => (Token::Pipe, after),
            ',' => (Token::Comma, after),
            '(' => (Token::Open, after),
            ')' => (Token::Close, after),
            '=' => (Token::Assign, after),
            ':' if after.starts_with('=') => (Token::Declare, &after[1..]),
            '"' => quoted(after)?,
            '`' => {
                let end = after.find('`').ok_or("a text has no end `")?;
                (Token::Text(after[..end].to_owned()), &after[end + 1..])
            }
            '$' => {
                let end = name_length(after);
                (Token::Variable(after[..end].to_owned()), &after[end..])
            }
            '.' => {
                let end = name_length(after);
                (Token::Field(after[..end].to_owned()), &after[end..])
            }
            c if c.is_ascii_digit()
                || (c == '-' && after.starts_with(|d: char| d.is_ascii_digit())) =>
            {
                number(rest)?
            }
            c if is_name(c) => {
                let end = name_length(rest);
                (Token::Word(rest[..end].to_owned()), &rest[end..])
            }
            c => return Err(format!("{c:?} has no meaning here")),
        };
        out.push(token);
        rest = left;
    }
    Ok(out)
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let end = text[1..]
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .map_or(text.len(), |at| at + 1);
    let (digits, left) = text.split_at(end);
    let token = if digits.contains('.') {
        digits.parse().map(Token::Float).ok()
    } else {
        digits.parse().map(Token::Int).ok()
    };
    Ok((token.ok_or_else(|| format!("{digits} is no number"))?, left))
}

fn quoted(text: &str) -> Result<(Token, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Text(value), &text[at + 1..])),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, c @ ('"' | '\\'))) => c,
                other => return Err(format!("a text has \\ before {:?}", other.map(|(_, c)| c))),
            }),
            c => value.push(c),
        }
    }
    Err("a text has no end \"".to_owned())
}

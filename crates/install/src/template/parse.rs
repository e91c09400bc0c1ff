//! Tokens into a tree.
use std::collections::BTreeMap;

use serde_json::Value;

use super::TemplateError;
use super::lex::{Piece, Token, pieces};

/// A part of a template's body.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    /// An action that prints, declares or assigns.
    Action(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Range),
    Template(String, Option<Pipeline>),
}

#[derive(Clone, Debug)]
pub(super) struct Range {
    pub key: Option<String>,
    pub value: Option<String>,
    pub over: Pipeline,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// `$x := a | b | c`
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub line: u32,
    /// The variable, and whether it is a new one.
    pub target: Option<(String, bool)>,
    /// Each a function with its arguments, or one value.
    pub commands: Vec<Vec<Expr>>,
}

#[derive(Clone, Debug)]
pub(super) enum Expr {
    Value(Value),
    Function(String),
    /// Fields of the dot.
    Dot(Vec<String>),
    Variable(String, Vec<String>),
    Sub(Box<Pipeline>, Vec<String>),
}

/// A file's body, and what it defines.
#[derive(Debug)]
pub(super) struct Parsed {
    pub body: Vec<Node>,
    pub defined: BTreeMap<String, Vec<Node>>,
}

/// Parses a file.
pub(super) fn parse(name: &str, text: &str) -> Result<Parsed, TemplateError> {
    let mut parser = Parser {
        name,
        pieces: pieces(name, text)?.into_iter(),
        defined: BTreeMap::new(),
    };
    let (body, end) = parser.block()?;
    if let Some(end) = end {
        return Err(TemplateError::new(
            name,
            end.line,
            "an end or else without a beginning",
        ));
    }
    Ok(Parsed {
        body,
        defined: parser.defined,
    })
}

/// What ended a block.
struct End {
    /// `end`, or `else` with what follows it.
    word: &'static str,
    rest: Vec<Token>,
    line: u32,
}

struct Parser<'a> {
    name: &'a str,
    pieces: std::vec::IntoIter<Piece>,
    defined: BTreeMap<String, Vec<Node>>,
}

impl Parser<'_> {
    fn fail<T>(&self, line: u32, text: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::new(self.name, line, text))
    }

    /// Everything up to `end`, `else` or the end of the file.
    fn block(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, line) => (tokens, line),
            };
            let mut tokens = tokens
                .into_iter()
                .skip_while(|t| *t == Token::Space)
                .peekable();
            let word = match tokens.peek() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let keyword = ["if", "with", "range", "define", "template", "end", "else"]
                .into_iter()
                .find(|keyword| *keyword == word);
            if keyword.is_some() {
                tokens.next();
            }
            let rest: Vec<Token> = tokens.collect();
            match keyword {
                Some(word @ ("end" | "else")) => {
                    return Ok((nodes, Some(End { word, rest, line })));
                }
                Some("if") => nodes.push(self.conditional(&rest, line)?),
                Some("with") => nodes.push(self.with(&rest, line)?),
                Some("range") => nodes.push(self.range(&rest, line)?),
                Some("define") => self.define(&rest, line)?,
                Some("template") => nodes.push(self.template(&rest, line)?),
                _ => nodes.push(Node::Action(self.pipeline(&rest, line)?)),
            }
        }
        Ok((nodes, None))
    }

    /// A block that must end; what ended it.
    fn body(&mut self, line: u32) -> Result<(Vec<Node>, End), TemplateError> {
        match self.block()? {
            (nodes, Some(end)) => Ok((nodes, end)),
            (_, None) => self.fail(line, "what begins here has no end"),
        }
    }

    /// The plain `else` of a block, if it has one, up to its end.
    fn otherwise(&mut self, end: &End) -> Result<Vec<Node>, TemplateError> {
        if end.word == "end" {
            return Ok(Vec::new());
        }
        if end.rest.iter().any(|token| *token != Token::Space) {
            return self.fail(end.line, "only `else` alone is known here");
        }
        let (nodes, last) = self.body(end.line)?;
        if last.word == "end" {
            Ok(nodes)
        } else {
            self.fail(last.line, "a second else")
        }
    }

    fn conditional(&mut self, rest: &[Token], line: u32) -> Result<Node, TemplateError> {
        let mut branches = Vec::new();
        let mut condition = self.pipeline(rest, line)?;
        loop {
            let (nodes, end) = self.body(line)?;
            branches.push((condition, nodes));
            let mut next = end.rest.iter().skip_while(|t| **t == Token::Space);
            if end.word == "else" && next.next() == Some(&Token::Word("if".to_owned())) {
                condition = self.pipeline(&next.cloned().collect::<Vec<_>>(), end.line)?;
                continue;
            }
            return Ok(Node::If(branches, self.otherwise(&end)?));
        }
    }

    fn with(&mut self, rest: &[Token], line: u32) -> Result<Node, TemplateError> {
        let value = self.pipeline(rest, line)?;
        let (nodes, end) = self.body(line)?;
        Ok(Node::With(value, nodes, self.otherwise(&end)?))
    }

    fn range(&mut self, rest: &[Token], line: u32) -> Result<Node, TemplateError> {
        let words: Vec<&Token> = rest
            .iter()
            .filter(|token| **token != Token::Space)
            .collect();
        let (names, from) = match words.as_slice() {
            [
                Token::Variable(key),
                Token::Comma,
                Token::Variable(value),
                Token::Declare,
                ..,
            ] => (Some((Some(key.clone()), value.clone())), 1),
            [Token::Variable(value), Token::Declare, ..] => (Some((None, value.clone())), 1),
            _ => (None, 0),
        };
        let over = match rest.iter().position(|token| *token == Token::Declare) {
            Some(at) if from == 1 => &rest[at + 1..],
            _ => rest,
        };
        let over = self.pipeline(over, line)?;
        let (body, end) = self.body(line)?;
        let (key, value) = match names {
            Some((key, value)) => (key, Some(value)),
            None => (None, None),
        };
        let otherwise = self.otherwise(&end)?;
        Ok(Node::Range(Range {
            key,
            value,
            over,
            body,
            otherwise,
        }))
    }

    fn define(&mut self, rest: &[Token], line: u32) -> Result<(), TemplateError> {
        let name = match rest.iter().find(|token| **token != Token::Space) {
            Some(Token::Text(name)) => name.clone(),
            _ => return self.fail(line, "define needs a name in quotes"),
        };
        let (nodes, end) = self.body(line)?;
        if end.word != "end" {
            return self.fail(end.line, "define has no else");
        }
        self.defined.insert(name, nodes);
        Ok(())
    }

    fn template(&mut self, rest: &[Token], line: u32) -> Result<Node, TemplateError> {
        let mut words = rest.iter().skip_while(|token| **token == Token::Space);
        let Some(Token::Text(name)) = words.next() else {
            return self.fail(line, "template needs a name in quotes");
        };
        let rest: Vec<Token> = words.cloned().collect();
        let blank = rest.iter().all(|token| *token == Token::Space);
        let dot = if blank {
            None
        } else {
            Some(self.pipeline(&rest, line)?)
        };
        Ok(Node::Template(name.clone(), dot))
    }

    fn pipeline(&self, tokens: &[Token], line: u32) -> Result<Pipeline, TemplateError> {
        let mut reader = Reader {
            tokens,
            at: 0,
            line,
        };
        let found = reader
            .pipeline(true)
            .and_then(|pipeline| match reader.peek() {
                None => Ok(pipeline),
                Some(token) => Err(format!("{token:?} was not expected")),
            });
        found.map_err(|text| TemplateError::new(self.name, line, text))
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    line: u32,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn spaces(&mut self) {
        while self.peek() == Some(&Token::Space) {
            self.at += 1;
        }
    }

    fn pipeline(&mut self, whole: bool) -> Result<Pipeline, String> {
        self.spaces();
        let target = if whole { self.target() } else { None };
        let mut commands = Vec::new();
        loop {
            commands.push(self.command()?);
            if self.peek() != Some(&Token::Pipe) {
                break;
            }
            self.at += 1;
        }
        Ok(Pipeline {
            line: self.line,
            target,
            commands,
        })
    }

    fn target(&mut self) -> Option<(String, bool)> {
        let Some(Token::Variable(name)) = self.peek() else {
            return None;
        };
        let name = name.clone();
        let mut after = self.at + 1;
        while self.tokens.get(after) == Some(&Token::Space) {
            after += 1;
        }
        let new = match self.tokens.get(after) {
            Some(Token::Declare) => true,
            Some(Token::Assign) => false,
            _ => return None,
        };
        self.at = after + 1;
        Some((name, new))
    }

    fn command(&mut self) -> Result<Vec<Expr>, String> {
        let mut parts = Vec::new();
        loop {
            self.spaces();
            match self.peek() {
                None | Some(Token::Pipe | Token::Close) if parts.is_empty() => {
                    return Err("a value is missing".to_owned());
                }
                None | Some(Token::Pipe | Token::Close) => return Ok(parts),
                Some(_) => parts.push(self.expr()?),
            }
        }
    }

    fn expr(&mut self) -> Result<Expr, String> {
        let Some(token) = self.peek().cloned() else {
            return Err("a value is missing".to_owned());
        };
        self.at += 1;
        Ok(match token {
            Token::Text(text) => Expr::Value(text.into()),
            Token::Int(number) => Expr::Value(number.into()),
            Token::Float(number) => Expr::Value(number.into()),
            Token::Word(word) => match word.as_str() {
                "true" => Expr::Value(true.into()),
                "false" => Expr::Value(false.into()),
                "nil" => Expr::Value(Value::Null),
                _ => Expr::Function(word),
            },
            Token::Field(name) => {
                let mut fields: Vec<String> = Vec::new();
                if !name.is_empty() {
                    fields.push(name);
                    fields.extend(self.fields()?);
                }
                Expr::Dot(fields)
            }
            Token::Variable(name) => Expr::Variable(name, self.fields()?),
            Token::Open => {
                let inner = self.pipeline(false)?;
                if self.peek() != Some(&Token::Close) {
                    return Err("a ( has no )".to_owned());
                }
                self.at += 1;
                Expr::Sub(Box::new(inner), self.fields()?)
            }
            other => return Err(format!("{other:?} was not expected")),
        })
    }

    fn fields(&mut self) -> Result<Vec<String>, String> {
        let mut fields = Vec::new();
        while let Some(Token::Field(name)) = self.peek() {
            if name.is_empty() {
                return Err("a dot without a name".to_owned());
            }
            fields.push(name.clone());
            self.at += 1;
        }
        Ok(fields)
    }
}

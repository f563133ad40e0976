//! Frames whose bodies are not held: a large body is given in pieces, as it arrives.

use bytes::{Buf, Bytes, BytesMut};

use super::{Body, BodyEnd, Command, DecodeError, Decoder, Frame, Headers, Lines, Progress};
use crate::proto::message::{BODY_IN_ONE_MAX, PART_BYTES};

/// Sizes at which bodies are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceSizes {
    /// A body of no more bytes comes with its frame.
    pub whole: usize,
    /// Bytes of each piece of a larger one but the last; at least 1.
    pub piece: usize,
}

impl Default for PieceSizes {
    /// Those of the parts in the log.
    fn default() -> Self {
        Self {
            whole: BODY_IN_ONE_MAX,
            piece: PART_BYTES,
        }
    }
}

/// What is read of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<C> {
    /// A frame with all of its body.
    Whole(Frame<C>),
    /// A frame whose body is large; it is empty here, and comes in pieces.
    Head(Frame<C>),
    /// The next bytes of the body.
    Part(Bytes),
    /// The frame is whole.
    End,
}

/// Where in a large body the decoder is.
#[derive(Clone, Debug)]
pub(super) enum Rest {
    /// So many bytes of the announced ones are to come.
    Length { left: usize, announced: usize },
    /// It ends at the first NUL, which is not among the next `searched` bytes; `given` came before.
    Nul { given: usize, searched: usize },
}

impl<C: Command> Decoder<C> {
    /// Takes the next piece off the front of `buffer`. `None`: more bytes are needed.
    ///
    /// # Errors
    /// As of [`Decoder::decode`].
    pub fn decode_piece(
        &mut self,
        buffer: &mut BytesMut,
        sizes: PieceSizes,
    ) -> Result<Option<Piece<C>>, DecodeError> {
        let decoded = self.advance_pieces(buffer, sizes);
        if let Err(error) = &decoded {
            self.progress = Progress::Failed(error.clone());
        }
        decoded
    }

    /// The next thing to be read is of a body that comes in pieces.
    #[must_use]
    pub fn is_within_body(&self) -> bool {
        matches!(self.progress, Progress::Pieces(_))
    }

    fn advance_pieces(
        &mut self,
        buffer: &mut BytesMut,
        sizes: PieceSizes,
    ) -> Result<Option<Piece<C>>, DecodeError> {
        if let Progress::Pieces(_) = self.progress {
            return self.next_piece(buffer, sizes.piece.max(1));
        }
        let whole = self.advance(buffer, sizes.whole)?;
        if whole.is_some() {
            return Ok(whole.map(Piece::Whole));
        }
        let Progress::Body(body) = &self.progress else {
            return Ok(None);
        };
        let Some(rest) = body.rest(sizes.whole) else {
            return Ok(None);
        };
        let head = buffer.split_to(body.start).freeze();
        let frame = Frame {
            command: body.command,
            headers: Headers::checked(head.slice(body.headers.clone()), body.escaped),
            body: Bytes::new(),
        };
        self.progress = Progress::Pieces(rest);
        Ok(Some(Piece::Head(frame)))
    }

    fn next_piece(
        &mut self,
        buffer: &mut BytesMut,
        piece: usize,
    ) -> Result<Option<Piece<C>>, DecodeError> {
        let Progress::Pieces(rest) = &mut self.progress else {
            return Ok(None);
        };
        let (taken, ends) = match rest {
            Rest::Length { left: 0, announced } => match buffer.first() {
                None => return Ok(None),
                Some(0) => (0, true),
                Some(_) => return Err(DecodeError::NoNul { length: *announced }),
            },
            Rest::Length { left, .. } => {
                let next = piece.min(*left);
                if buffer.len() < next {
                    return Ok(None);
                }
                *left -= next;
                (next, false)
            }
            Rest::Nul { given, searched } => {
                let unsearched = buffer.get(*searched..).unwrap_or_default();
                let found = memchr::memchr(0, unsearched).map(|at| *searched + at);
                let known = found.unwrap_or(buffer.len());
                let limit = self.limits.body_bytes;
                if given.saturating_add(known) > limit {
                    return Err(DecodeError::BodyBytes { limit });
                }
                *searched = known;
                if found.is_none() && known < piece {
                    return Ok(None);
                }
                let next = piece.min(known);
                *given += next;
                *searched -= next;
                (next, next == 0)
            }
        };
        if ends {
            buffer.advance(1);
            self.progress = Progress::Lines(Lines::default());
            return Ok(Some(Piece::End));
        }
        Ok(Some(Piece::Part(buffer.split_to(taken).freeze())))
    }
}

impl<C> Body<C> {
    /// What is to come of a body that is larger than `whole`; none while it is not known to be.
    fn rest(&self, whole: usize) -> Option<Rest> {
        match self.end {
            BodyEnd::Length(length) if length > whole => Some(Rest::Length {
                left: length,
                announced: length,
            }),
            BodyEnd::Nul { searched } if searched - self.start > whole => Some(Rest::Nul {
                given: 0,
                searched: searched - self.start,
            }),
            BodyEnd::Length(_) | BodyEnd::Nul { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::stomp::{ClientCommand, Limits};

    const SIZES: PieceSizes = PieceSizes { whole: 8, piece: 5 };

    fn limits() -> Limits {
        Limits {
            body_bytes: 60,
            frame_bytes: 200,
            ..Limits::default()
        }
    }

    /// Bodies, whether each came in pieces, and the largest piece.
    type Bodies = (Vec<(Vec<u8>, bool)>, usize);

    /// What is read of `bytes` that come `step` at a time: heads and whole bodies as they are, the
    /// pieces of others joined.
    fn read(bytes: &[u8], step: usize) -> Result<Bodies, DecodeError> {
        let mut decoder = Decoder::<ClientCommand>::new(limits());
        let (mut buffer, mut bodies, mut open, mut largest) =
            (BytesMut::new(), Vec::new(), None, 0);
        for more in bytes.chunks(step) {
            buffer.extend_from_slice(more);
            while let Some(piece) = decoder.decode_piece(&mut buffer, SIZES)? {
                match piece {
                    Piece::Whole(frame) => bodies.push((frame.body.to_vec(), false)),
                    Piece::Head(frame) => {
                        assert!(frame.body.is_empty() && decoder.is_within_body());
                        assert_eq!(frame.headers.raw_value(b"a"), Some(&b"1"[..]));
                        open = Some(Vec::new());
                    }
                    Piece::Part(part) => {
                        largest = largest.max(part.len());
                        open.as_mut().unwrap().extend_from_slice(&part);
                    }
                    Piece::End => {
                        assert!(!decoder.is_within_body());
                        bodies.push((open.take().unwrap(), true));
                    }
                }
            }
        }
        assert!(buffer.is_empty(), "{buffer:?} is left");
        Ok((bodies, largest))
    }

    fn frame(body: &[u8], counted: bool) -> Vec<u8> {
        let length = match counted {
            true => format!("content-length:{}\n", body.len()),
            false => String::new(),
        };
        [format!("SEND\na:1\n{length}\n").as_bytes(), body, b"\0\n"].concat()
    }

    proptest! {
        #[test]
        fn bodies_are_the_same_whole_and_in_pieces_however_they_come(
            bodies in prop::collection::vec((prop::collection::vec(1u8..255, 0..60), any::<bool>()), 1..6),
            step in 1usize..80,
        ) {
            let bytes: Vec<u8> =
                bodies.iter().flat_map(|(body, counted)| frame(body, *counted)).collect();
            let (found, largest) = read(&bytes, step).unwrap();
            prop_assert!(largest <= SIZES.piece);
            let expected: Vec<_> =
                bodies.into_iter().map(|(body, _)| { let large = body.len() > SIZES.whole; (body, large) }).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn nul_is_a_byte_like_others_in_a_body_whose_length_is_announced() {
        let body = [0; 23];
        assert_eq!(
            read(&frame(&body, true), 7).unwrap().0,
            [(body.to_vec(), true)]
        );
    }

    #[test]
    fn a_body_over_the_limit_is_refused_by_its_announcement_or_where_it_goes_over() {
        for step in [1, 1000] {
            let limit = Err(DecodeError::BodyBytes { limit: 60 });
            assert_eq!(read(&frame(&[b'x'; 61], true), step), limit);
            assert_eq!(read(&frame(&[b'x'; 61], false), step), limit);
            assert!(read(&frame(&[b'x'; 60], false), step).is_ok());
        }
    }

    #[test]
    fn a_body_that_goes_on_after_its_length_is_refused() {
        let mut bytes = frame(&[b'x'; 20], true);
        let end = bytes.len() - 2;
        bytes[end] = b'y';
        let refused = Err(DecodeError::NoNul { length: 20 });
        assert_eq!(read(&bytes, 3), refused);
    }
}

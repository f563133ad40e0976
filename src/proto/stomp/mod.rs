//! STOMP 1.0, 1.1 and 1.2: frames, their bytes, and nothing of what they mean.

pub mod codec;
pub mod encode;
pub mod frame;
pub mod peek;

pub use codec::{DecodeError, Decoder, Limits, Piece, PieceSizes};
pub use encode::FrameWriter;
pub use frame::{
    ClientCommand, ClientFrame, Command, Frame, Headers, ServerCommand, ServerFrame, Version,
};

mod acks;
mod consume;
mod life;
mod publish;
mod support;
mod table;

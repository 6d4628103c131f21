//! Tables of what classes mean.

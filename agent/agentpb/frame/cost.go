// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxParts bounds the messages and repeated values of one frame: decoded, an empty one
// takes a hundred times the two bytes that it has on the wire.
const MaxParts = 20_000

// maxDepth bounds how deep they lie in each other; our own messages stay below ten.
const maxDepth = 16

// affordable looks at what a message would cost before it is decoded. Parts have two bytes at
// least, and none of our messages contains itself: a short one need not be counted.
func affordable(b []byte, m proto.Message) error {
	if len(b) < 2*MaxParts {
		return nil
	}
	left := MaxParts
	return count(b, m.ProtoReflect().Descriptor(), &left, maxDepth)
}

// count takes the parts of a message off what is left.
func count(b []byte, d protoreflect.MessageDescriptor, left *int, depth int) error {
	if depth == 0 {
		return fmt.Errorf("%w: more than %d in each other", ErrTooMany, maxDepth)
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		f := d.Fields().ByNumber(num)
		if f == nil || f.IsList() || f.Message() != nil {
			if *left--; *left < 0 {
				return fmt.Errorf("%w: allowed are %d", ErrTooMany, MaxParts)
			}
		}
		if f != nil && f.Message() != nil && typ == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(b[:n])
			if err := count(inner, f.Message(), left, depth-1); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

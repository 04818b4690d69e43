// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// maxParts bounds the messages and repeated values of one frame: decoded, an empty one
// takes a hundred times the two bytes that it has on the wire.
const maxParts = 20_000

// maxDepth bounds how deep they lie in each other; our own messages stay below ten.
const maxDepth = 16

var errTooMany = errors.New("frame has too many parts")

// frugal decodes frames after a look at what that would cost.
type frugal struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (f frugal) Unmarshal(data mem.BufferSlice, v any) error {
	_, relayed := v.(*agentpb.FromCarrier) // of another worker, which has counted what agents sent
	if m, ok := v.(proto.Message); ok && !relayed {
		b := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer b.Free()
		parts := maxParts
		if err := count(b.ReadOnlyData(), m.ProtoReflect().Descriptor(), &parts, maxDepth); err != nil {
			return err
		}
	}
	return f.CodecV2.Unmarshal(data, v)
}

// count takes the parts of a message off what is left.
func count(b []byte, d protoreflect.MessageDescriptor, left *int, depth int) error {
	if depth == 0 {
		return fmt.Errorf("%w: more than %d in each other", errTooMany, maxDepth)
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("read frame: %w", protowire.ParseError(n))
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(num, typ, b)
		if n < 0 {
			return fmt.Errorf("read frame: %w", protowire.ParseError(n))
		}
		f := d.Fields().ByNumber(num)
		if f == nil || f.IsList() || f.Message() != nil {
			if *left--; *left < 0 {
				return fmt.Errorf("%w: allowed are %d", errTooMany, maxParts)
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

// SPDX-License-Identifier: Apache-2.0

package pdu

import "slices"

// Tags of BER and SNMP (RFC 1157, RFC 3416).
const (
	tagInteger   = 0x02
	tagString    = 0x04
	tagNull      = 0x05
	tagOID       = 0x06
	tagSequence  = 0x30
	tagTimeTicks = 0x43

	tagNoObject  = 0x80
	tagEndOfView = 0x82

	tagGet      = 0xa0
	tagGetNext  = 0xa1
	tagResponse = 0xa2
	tagSet      = 0xa3
	tagGetBulk  = 0xa5
)

// oid is an object identifier, compared number by number.
type oid []uint32

func (o oid) with(n ...uint32) oid { return append(slices.Clone(o), n...) }

// element is one decoded tag-length-value.
type element struct {
	tag  byte
	body []byte
}

// take cuts the first element off p.
func take(p []byte) (e element, rest []byte, ok bool) {
	if len(p) < 2 {
		return element{}, nil, false
	}
	n, at := int(p[1]), 2
	if n >= 0x80 { // long form: so many bytes of length
		size := n & 0x7f
		if size < 1 || size > 2 || len(p) < 2+size {
			return element{}, nil, false
		}
		n = 0
		for _, c := range p[2 : 2+size] {
			n = n<<8 | int(c)
		}
		at += size
	}
	if len(p) < at+n {
		return element{}, nil, false
	}
	return element{p[0], p[at : at+n]}, p[at+n:], true
}

// takeTag is take for an element that must have this tag.
func takeTag(p []byte, tag byte) (body, rest []byte, ok bool) {
	e, rest, ok := take(p)
	return e.body, rest, ok && e.tag == tag
}

func takeInt(p []byte) (v int, rest []byte, ok bool) {
	body, rest, ok := takeTag(p, tagInteger)
	if !ok || len(body) < 1 || len(body) > 4 {
		return 0, nil, false
	}
	v = int(int8(body[0]))
	for _, c := range body[1:] {
		v = v<<8 | int(c)
	}
	return v, rest, true
}

const maxArcs = 128

func decodeOID(p []byte) (oid, bool) {
	if len(p) == 0 || p[len(p)-1]&0x80 != 0 {
		return nil, false
	}
	var all oid
	var v uint64
	for _, c := range p {
		if v = v<<7 | uint64(c&0x7f); v > 1<<32-1 || len(all) > maxArcs {
			return nil, false
		}
		if c&0x80 != 0 {
			continue
		}
		if len(all) == 0 { // the first two arcs share a number
			first := min(v/40, 2)
			all = append(all, uint32(first), uint32(v-40*first))
		} else {
			all = append(all, uint32(v))
		}
		v = 0
	}
	return all, true
}

// put encodes an element.
func put(tag byte, body []byte) []byte {
	out := []byte{tag}
	switch n := len(body); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	default:
		out = append(out, 0x82, byte(n>>8), byte(n))
	}
	return append(out, body...)
}

func putInt(tag byte, v int) []byte {
	out := []byte{byte(v)}
	for v >>= 8; v != 0 && v != -1 || out[0]&0x80 != byte(v)&0x80; v >>= 8 {
		out = append([]byte{byte(v)}, out...)
	}
	return put(tag, out)
}

func putOID(o oid) []byte {
	var out []byte
	for _, v := range append(oid{o[0]*40 + o[1]}, o[2:]...) {
		arc := []byte{byte(v & 0x7f)}
		for v >>= 7; v > 0; v >>= 7 {
			arc = append([]byte{byte(v&0x7f) | 0x80}, arc...)
		}
		out = append(out, arc...)
	}
	return put(tagOID, out)
}

func putString(s string) []byte { return put(tagString, []byte(s)) }

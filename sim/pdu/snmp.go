// SPDX-License-Identifier: Apache-2.0

package pdu

import (
	"net/netip"
	"slices"
)

const (
	maxDatagram = 1472 // of a request; answers are bounded by maxBindings
	maxBindings = 64

	version1, version2c = 0, 1
)

// Error statuses (RFC 1157 §4.1.1, RFC 3416 §3).
const (
	errNoSuchName  = 2
	errBadValue    = 3
	errWrongType   = 7
	errWrongValue  = 10
	errNotWritable = 17
)

// Names of RFC 1213 and of PowerNet-MIB.
var (
	system        = oid{1, 3, 6, 1, 2, 1, 1}
	apc           = oid{1, 3, 6, 1, 4, 1, 318}
	rackPDU       = apc.with(1, 3, 4, 5)              // masterSwitchrPDU, the sysObjectID
	outletControl = apc.with(1, 1, 12, 3, 3, 1, 1, 4) // rPDUOutletControlOutletCommand
	outletName    = apc.with(1, 1, 12, 3, 5, 1, 1, 2) // rPDUOutletStatusOutletName
	outletState   = apc.with(1, 1, 12, 3, 5, 1, 1, 4) // rPDUOutletStatusOutletState
)

// Values of outletState, and with reboot of outletControl.
const (
	stateOn     = 1
	stateOff    = 2
	stateReboot = 3
)

// object is one name that can be read, and written where set is there.
type object struct {
	name oid
	get  func() []byte
	set  func(from netip.AddrPort, value int) bool
}

// objects makes the tree of a PDU in the order of names.
func (p *PDU) objects() []object {
	text := func(s string) func() []byte { return func() []byte { return putString(s) } }
	all := []object{
		{name: system.with(1, 0), get: text("simulated rack PDU")},
		{name: system.with(2, 0), get: func() []byte { return putOID(rackPDU) }},
		{name: system.with(3, 0), get: func() []byte { return putInt(tagTimeTicks, 1) }},
		{name: system.with(5, 0), get: text(p.cfg.Name)},
	}
	for i, o := range p.cfg.Outlets {
		state := func() []byte { return putInt(tagInteger, p.reading(i)) }
		n := uint32(i + 1)
		all = append(all,
			object{name: outletControl.with(n), get: state, set: func(from netip.AddrPort, v int) bool { return p.control(from, i, v) }},
			object{name: outletName.with(n), get: text(o.Label)},
			object{name: outletState.with(n), get: state})
	}
	slices.SortFunc(all, func(a, b object) int { return slices.Compare(a.name, b.name) })
	return all
}

// request is a message that was understood.
type request struct {
	version, id   int
	kind          byte
	first, second int // error fields, or of GETBULK: non-repeaters and repetitions
	names         []oid
	values        []element
	bindings      []byte // as they came
}

func (p *PDU) parse(datagram []byte) (r request, ok bool) {
	if len(datagram) > maxDatagram {
		return r, false
	}
	body, _, ok := takeTag(datagram, tagSequence)
	if !ok {
		return r, false
	}
	if r.version, body, ok = takeInt(body); !ok || r.version != version1 && r.version != version2c {
		return r, false
	}
	community, body, ok := takeTag(body, tagString)
	if !ok || string(community) != p.cfg.Community {
		return r, false
	}
	e, _, ok := take(body)
	if !ok {
		return r, false
	}
	r.kind, body = e.tag, e.body
	for _, field := range []*int{&r.id, &r.first, &r.second} {
		if *field, body, ok = takeInt(body); !ok {
			return r, false
		}
	}
	if r.bindings, _, ok = takeTag(body, tagSequence); !ok {
		return r, false
	}
	for rest := r.bindings; len(rest) > 0; {
		var binding, name []byte
		if binding, rest, ok = takeTag(rest, tagSequence); !ok || len(r.names) == maxBindings {
			return r, false
		}
		if name, binding, ok = takeTag(binding, tagOID); !ok {
			return r, false
		}
		o, good := decodeOID(name)
		v, _, there := take(binding)
		if !good || !there {
			return r, false
		}
		r.names, r.values = append(r.names, o), append(r.values, v)
	}
	return r, true
}

// Handle takes one datagram and returns the one to send back, nil for none. The answer
// is the caller's.
func (p *PDU) Handle(from netip.AddrPort, datagram []byte) []byte {
	p.work.Lock()
	defer p.work.Unlock()
	f := p.Faults()
	if f.Mute {
		return nil
	}
	r, ok := p.parse(datagram)
	if !ok {
		return nil
	}
	var bindings []byte
	status, index := 0, 0
	switch r.kind {
	case tagGet, tagGetNext:
		bindings, status, index = p.get(r)
	case tagGetBulk:
		if r.version == version1 {
			return nil
		}
		bindings = p.bulk(r)
	case tagSet:
		bindings = r.bindings
		status, index = p.write(from, r)
	default:
		return nil
	}
	if status != 0 {
		bindings = r.bindings
	}
	if f.LoseAnswers > 0 && p.dice.IntN(100) < f.LoseAnswers {
		return nil
	}
	body := slices.Concat(putInt(tagInteger, r.id), putInt(tagInteger, status), putInt(tagInteger, index), put(tagSequence, bindings))
	return put(tagSequence, slices.Concat(putInt(tagInteger, r.version), putString(p.cfg.Community), put(tagResponse, body)))
}

// find returns the object of this name, or with next the first behind it.
func (p *PDU) find(name oid, next bool) (object, bool) {
	i, exact := slices.BinarySearchFunc(p.tree, name, func(o object, n oid) int { return slices.Compare(o.name, n) })
	if next && exact {
		i++
	}
	if i >= len(p.tree) || !next && !exact {
		return object{}, false
	}
	return p.tree[i], true
}

func bind(name oid, value []byte) []byte { return put(tagSequence, append(putOID(name), value...)) }

// get answers GET and GETNEXT. What is missing is an error of version 1 and a value of 2c.
func (p *PDU) get(r request) (bindings []byte, status, index int) {
	for i, name := range r.names {
		o, ok := p.find(name, r.kind == tagGetNext)
		switch {
		case ok:
			bindings = append(bindings, bind(o.name, o.get())...)
		case r.version == version1:
			return nil, errNoSuchName, i + 1
		case r.kind == tagGet:
			bindings = append(bindings, bind(name, put(tagNoObject, nil))...)
		default:
			bindings = append(bindings, bind(name, put(tagEndOfView, nil))...)
		}
	}
	return bindings, 0, 0
}

// bulk answers GETBULK with as many repetitions as fit.
func (p *PDU) bulk(r request) (bindings []byte) {
	n := 0
	add := func(name oid) (oid, bool) {
		n++
		o, ok := p.find(name, true)
		if !ok {
			bindings = append(bindings, bind(name, put(tagEndOfView, nil))...)
			return name, false
		}
		bindings = append(bindings, bind(o.name, o.get())...)
		return o.name, true
	}
	single := min(max(r.first, 0), len(r.names))
	for _, name := range r.names[:single] {
		add(name)
	}
	at := r.names[single:]
	for more := true; more && n+len(at) <= maxBindings && r.second > 0; r.second-- {
		more = false
		for i := range at {
			var ok bool
			at[i], ok = add(at[i])
			more = more || ok
		}
	}
	return bindings
}

// write checks all bindings of a SET before it does any.
func (p *PDU) write(from netip.AddrPort, r request) (status, index int) {
	refuse := func(v1, v2, i int) (int, int) {
		if r.version == version1 {
			return v1, i + 1
		}
		return v2, i + 1
	}
	targets, values := make([]object, len(r.names)), make([]int, len(r.names))
	for i, name := range r.names {
		o, ok := p.find(name, false)
		if !ok || o.set == nil {
			return refuse(errNoSuchName, errNotWritable, i)
		}
		v, _, ok := takeInt(put(r.values[i].tag, r.values[i].body))
		if !ok {
			return refuse(errBadValue, errWrongType, i)
		}
		targets[i], values[i] = o, v
	}
	for i, o := range targets {
		if !o.set(from, values[i]) {
			return refuse(errBadValue, errWrongValue, i)
		}
	}
	return 0, 0
}

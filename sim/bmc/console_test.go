// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// console is a remote console that talks to Handle without a socket. It checks all it
// receives; go-ipmi, ipmitool and fence_ipmilan check this BMC independently elsewhere.
type console struct {
	b        *BMC
	from     netip.AddrPort
	suite    suite
	user     User
	role     Privilege
	id       uint32
	bmcID    uint32
	rand     []byte
	bmcRand  []byte
	guid     []byte
	s        *session // the client's mirror: K1, K2; its console field is the BMC's id
	rqSeq    byte
	lastSent []byte
}

var alice = User{Name: "alice", Password: "s3cret", Privilege: Administrator}

func newConsole(b *BMC, suiteID int, user User, role Privilege) *console {
	s, _ := suiteByID(suiteID)
	return &console{
		b: b, suite: s, user: user, role: role, id: 0xa0a1a2a3,
		from: netip.MustParseAddrPort("127.0.0.9:4000"), rand: bytes.Repeat([]byte{7}, 16),
	}
}

// status is an RMCP+ status code other than 00h.
type status byte

func (s status) Error() string { return fmt.Sprintf("status %02xh", byte(s)) }

var errSilence = errors.New("no answer")

// ask sends one datagram and returns the last answer, which is the true one.
func (c *console) ask(datagram []byte) ([]byte, error) {
	c.lastSent = datagram
	answers, _ := c.b.Handle(c.from, datagram)
	if len(answers) == 0 {
		return nil, errSilence
	}
	return answers[len(answers)-1], nil
}

// setup sends a setup payload and returns the answer's body.
func (c *console) setup(kind byte, body []byte) ([]byte, error) {
	out, err := c.ask(plainPlus(kind, body))
	if err != nil {
		return nil, err
	}
	k, ok := parsePacket(out[4:])
	if !ok || k.kind != kind+1 || len(k.body) < 8 {
		return nil, fmt.Errorf("answer to %02xh is % x", kind, out)
	}
	if k.body[1] != 0 {
		return nil, status(k.body[1])
	}
	return k.body, nil
}

func (c *console) openBody() []byte {
	out := binary.LittleEndian.AppendUint32([]byte{0, 0, 0, 0}, c.id)
	out = append(out, 0, 0, 0, 8, c.suite.auth, 0, 0, 0)
	out = append(out, 1, 0, 0, 8, c.suite.integrity, 0, 0, 0)
	return append(out, 2, 0, 0, 8, c.suite.conf, 0, 0, 0)
}

func (c *console) open() error {
	p, err := c.setup(payloadOpen, c.openBody())
	if err != nil {
		return err
	}
	c.bmcID = binary.LittleEndian.Uint32(p[8:])
	c.suite.integrity, c.suite.conf = p[24], p[32]
	return nil
}

func (c *console) who() []byte {
	return append([]byte{byte(c.role) | 0x10, byte(len(c.user.Name))}, c.user.Name...)
}

func (c *console) rakp1Body() []byte {
	out := append([]byte{0, 0, 0, 0}, le32(c.bmcID)...)
	out = append(out, c.rand...)
	out = append(out, byte(c.role)|0x10, 0, 0, byte(len(c.user.Name)))
	return append(out, c.user.Name...)
}

// rakp1 returns errWrongPassword when the BMC's code does not verify.
func (c *console) rakp1() error {
	p, err := c.setup(payloadRAKP1, c.rakp1Body())
	if err != nil {
		return err
	}
	c.bmcRand, c.guid = p[8:24], p[24:40]
	want := c.suite.mac([]byte(c.user.Password), le32(c.id), le32(c.bmcID), c.rand, c.bmcRand, c.guid, c.who())
	if !hmac.Equal(want, p[40:]) {
		return errWrongPassword
	}
	return nil
}

var errWrongPassword = errors.New("wrong password")

func (c *console) rakp3Body() []byte {
	code := c.suite.mac([]byte(c.user.Password), c.bmcRand, le32(c.id), c.who())
	return append(append([]byte{0, 0, 0, 0}, le32(c.bmcID)...), code...)
}

func (c *console) rakp3() error {
	p, err := c.setup(payloadRAKP3, c.rakp3Body())
	if err != nil {
		return err
	}
	sik := c.suite.mac([]byte(c.user.Password), c.rand, c.bmcRand, c.who())
	icv := c.suite.mac(sik, c.rand, le32(c.bmcID), c.guid)
	if !hmac.Equal(icv[:len(p)-8], p[8:]) || len(p)-8 != c.suite.rakp4Len() {
		return errors.New("wrong integrity check value in RAKP 4")
	}
	c.s = &session{suite: c.suite, sik: sik, limit: c.role, console: c.bmcID}
	c.s.activate(time.Time{})
	return nil
}

// login opens a session and raises its level to the role.
func (c *console) login() error {
	for _, step := range []func() error{c.open, c.rakp1, c.rakp3} {
		if err := step(); err != nil {
			return err
		}
	}
	code, _, err := c.command(netFnApp, 0x3b, byte(c.role))
	if err == nil && code != codeOK {
		err = fmt.Errorf("set privilege: %02xh", code)
	}
	return err
}

func request(netFn, cmd, rqSeq byte, data ...byte) []byte {
	out := []byte{addrBMC, netFn << 2}
	out = append(out, -checksum(out), 0x81, rqSeq<<2, cmd)
	out = append(out, data...)
	return append(out, -checksum(out[3:]))
}

// packet wraps a request of the session.
func (c *console) packet(netFn, cmd byte, data ...byte) []byte {
	c.rqSeq = (c.rqSeq + 1) & 0x3f
	return c.s.wrap(request(netFn, cmd, c.rqSeq, data...))
}

// command runs one command in the session and returns completion code and body.
func (c *console) command(netFn, cmd byte, data ...byte) (byte, []byte, error) {
	out, err := c.ask(c.packet(netFn, cmd, data...))
	if err != nil {
		return 0, nil, err
	}
	return c.read(out, netFn, cmd)
}

func (c *console) read(out []byte, netFn, cmd byte) (byte, []byte, error) {
	k, ok := parsePacket(out[4:])
	if !ok || k.session != c.id {
		return 0, nil, fmt.Errorf("answer is no packet of the session: % x", out)
	}
	m, ok := c.s.unwrap(k)
	if !ok {
		return 0, nil, fmt.Errorf("answer does not verify: % x", out)
	}
	if len(m) < 8 || checksum(m[:3]) != 0 || checksum(m[3:]) != 0 || m[1]>>2 != netFn|1 || m[4]>>2 != c.rqSeq || m[5] != cmd {
		return 0, nil, fmt.Errorf("answer is no message to the request: % x", m)
	}
	return m[6], m[7 : len(m)-1], nil
}

// power reads chassis status.
func (c *console) power() (bool, error) {
	code, data, err := c.command(netFnChassis, cmdChassisStatus)
	if err != nil {
		return false, err
	}
	if code != codeOK || len(data) < 3 {
		return false, fmt.Errorf("status: code %02xh, %d bytes", code, len(data))
	}
	return data[0]&1 != 0, nil
}

// manual is a clock moved by hand; it starts somewhere other than zero.
type manual struct{ t time.Time }

func newClock() *manual                { return &manual{time.Unix(1_000_000, 0)} }
func (m *manual) now() time.Time       { return m.t }
func (m *manual) pass(d time.Duration) { m.t = m.t.Add(d) }

// rig is a BMC with a model chassis on a clock moved by hand.
type rig struct {
	*BMC
	clock   *manual
	chassis *ModelChassis
}

func newRig(t testing.TB, change ...func(*Config, *ChassisConfig)) rig {
	t.Helper()
	clock := newClock()
	cc := ChassisConfig{On: true, Now: clock.now}
	cfg := Config{
		Name: "bmc-1", Addr: "127.0.0.1:0", GUID: [16]byte{1, 2, 3, 4}, Now: clock.now,
		Users: []User{alice, {"oscar", "op", Operator}, {"ursula", "us", UserLevel}},
	}
	for _, f := range change {
		f(&cfg, &cc)
	}
	chassis := NewChassis(cc)
	cfg.Chassis = chassis
	b := New(cfg)
	if err := b.cfg.validate(); err != nil {
		t.Fatal(err)
	}
	return rig{b, clock, chassis}
}

// in logs in, or ends the test.
func (r rig) in(t testing.TB, suiteID int, user User) *console {
	t.Helper()
	c := newConsole(r.BMC, suiteID, user, user.Privilege)
	if err := c.login(); err != nil {
		t.Fatalf("log in as %s with suite %d: %v", user.Name, suiteID, err)
	}
	return c
}

func (r rig) set(t testing.TB, f Faults) {
	t.Helper()
	if err := r.SetFaults(f); err != nil {
		t.Fatal(err)
	}
}

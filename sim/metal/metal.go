// SPDX-License-Identifier: Apache-2.0

package metal

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/pdu"
	"github.com/holdfast-ha/holdfast/sim/redfish"
)

// Limits of a Config.
const (
	MaxHosts     = 50000
	MaxFaces     = 1000 // Redfish services, and PDUs
	OutletsOfPDU = 24
)

// Config describes a fleet. Zero fields take the defaults named.
type Config struct {
	Hosts   int          //
	Network netip.Prefix // within 127.0.0.0/8: 127.10.0.0/16
	Port    uint16       // of the BMCs: 6230. Redfish is at the next one, PDUs at the one after that

	Redfish int // so many hosts, the first, have a Redfish service
	PDUs    int // an even number

	Users     []bmc.User
	Community string // of the PDUs: "private"
	Suites    []int  // cipher suites of the BMCs: 3 and 17

	Chassis   bmc.ChassisConfig // of all hosts, which are on at the start
	Seed      uint64
	OnCommand func(bmc.Entry) // sees each entry of the truth log and returns promptly
}

// Host is one simulated host.
type Host struct {
	Name    string // "bmc-00001": in the truth log
	chassis *bmc.ModelChassis
	bmc     *bmc.BMC
	redfish *redfish.Server // nil for most

	mu    sync.Mutex
	feeds [2]bool // of a host with PDUs
}

// Fleet is the whole. Its methods are safe for concurrent use once Listen has returned.
type Fleet struct {
	cfg   Config
	hosts []*Host
	block *bmc.Block
	pdus  []*pdu.PDU
}

// New makes a fleet that does nothing yet.
func New(cfg Config) (*Fleet, error) {
	if cfg.Network == (netip.Prefix{}) {
		cfg.Network = netip.MustParsePrefix("127.10.0.0/16")
	}
	if cfg.Port == 0 {
		cfg.Port = 6230
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("make fleet: %w", err)
	}
	cfg.Chassis.On = true
	f := &Fleet{cfg: cfg, block: &bmc.Block{First: cfg.Network.Masked().Addr().Next(), Port: cfg.Port}}
	f.hosts, f.block.BMCs = make([]*Host, cfg.Hosts), make([]*bmc.BMC, cfg.Hosts)
	for i := range f.hosts {
		f.hosts[i] = f.host(i)
		f.block.BMCs[i] = f.hosts[i].bmc
	}
	for i := range cfg.PDUs {
		f.pdus = append(f.pdus, f.pdu(i))
	}
	return f, nil
}

func (c Config) validate() error {
	last := uint32(0x7ffffffe) // of 127.0.0.0/8 without its broadcast address
	switch {
	case !c.Network.IsValid() || !c.Network.Addr().Is4() || !c.Network.Addr().IsLoopback() || c.Network.Bits() < 8:
		return fmt.Errorf("network is %s, allowed is one within 127.0.0.0/8", c.Network)
	case c.Hosts < 1 || c.Hosts > MaxHosts:
		return fmt.Errorf("hosts is %d, allowed are 1 to %d", c.Hosts, MaxHosts)
	case c.Hosts > 1<<(32-c.Network.Bits())-2 || be32(c.Network.Masked().Addr())+uint32(c.Hosts+c.PDUs) > last:
		return fmt.Errorf("network %s is too small for %d hosts", c.Network, c.Hosts)
	case c.Redfish < 0 || c.Redfish > min(MaxFaces, c.Hosts):
		return fmt.Errorf("redfish is %d, allowed are 0 to %d, and no more than hosts", c.Redfish, MaxFaces)
	case c.PDUs < 0 || c.PDUs > MaxFaces || c.PDUs%2 != 0:
		return fmt.Errorf("pdus is %d, allowed are even numbers up to %d: a host has two feeds", c.PDUs, MaxFaces)
	case c.PDUs > 0 && (c.PDUs/2-1)*OutletsOfPDU >= c.Hosts:
		return fmt.Errorf("pdus is %d, allowed are as many as %d hosts need: %d", c.PDUs, c.Hosts, 2*((c.Hosts+OutletsOfPDU-1)/OutletsOfPDU))
	case c.Port > 65533:
		return fmt.Errorf("port is %d, allowed are 1 to 65533", c.Port)
	}
	return nil
}

func be32(a netip.Addr) uint32 {
	four := a.As4()
	return binary.BigEndian.Uint32(four[:])
}

func (f *Fleet) host(i int) *Host {
	dice := rand.New(rand.NewPCG(f.cfg.Seed, 1<<32+uint64(i))) // its own: other faces and counts change no identity
	h := &Host{Name: fmt.Sprintf("bmc-%05d", i+1), chassis: bmc.NewChassis(f.cfg.Chassis), feeds: [2]bool{true, true}}
	var guid [16]byte
	binary.LittleEndian.PutUint64(guid[:], dice.Uint64())
	binary.LittleEndian.PutUint64(guid[8:], dice.Uint64())
	h.bmc = bmc.New(bmc.Config{
		Name: h.Name, GUID: guid, Users: f.cfg.Users, Suites: f.cfg.Suites, Seed: dice.Uint64(), Chassis: h.chassis, OnCommand: f.cfg.OnCommand,
	})
	if i < f.cfg.Redfish {
		at := f.block.Addr(i)
		h.redfish = redfish.New(redfish.Config{
			Name: h.Name, Addr: netip.AddrPortFrom(at.Addr(), f.cfg.Port+1).String(), Users: f.cfg.Users, Seed: dice.Uint64(), OnCommand: f.cfg.OnCommand,
			Systems: []redfish.System{{UUID: uuid(guid), Serial: h.Name, Chassis: h.chassis}},
		})
	}
	return h
}

// uuid prints a GUID of the wire as the host's own product UUID is printed.
func uuid(g [16]byte) string {
	return fmt.Sprintf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%x-%x", g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8:10], g[10:])
}

func (f *Fleet) pdu(i int) *pdu.PDU {
	feed := i % 2
	outlets := make([]pdu.Outlet, OutletsOfPDU)
	for n := range outlets {
		k := i/2*OutletsOfPDU + n
		if k >= len(f.hosts) {
			continue
		}
		h := f.hosts[k]
		outlets[n] = pdu.Outlet{Label: h.Name + [2]string{" A", " B"}[feed], Feed: func(on bool) { f.fed(h, feed, on) }}
	}
	return pdu.New(pdu.Config{
		Name: fmt.Sprintf("pdu-%04d", i+1), Addr: f.pduAddr(i).String(), Community: f.cfg.Community, Outlets: outlets, Seed: f.cfg.Seed + uint64(i), OnCommand: f.cfg.OnCommand,
	})
}

// pduAddr: PDUs stand behind the last BMC.
func (f *Fleet) pduAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(f.block.Addr(f.cfg.Hosts+i).Addr(), f.cfg.Port+2)
}

// fed tells a host of one of its feeds.
func (f *Fleet) fed(h *Host, feed int, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.feeds[0] || h.feeds[1]
	h.feeds[feed] = on
	now := h.feeds[0] || h.feeds[1]
	if was == now {
		return
	}
	e := bmc.Entry{At: time.Now(), BMC: h.Name, Verb: bmc.VerbMainsOff, Before: h.chassis.Power(), Outcome: bmc.Executed}
	if now {
		e.Verb = bmc.VerbMainsOn
	}
	h.chassis.SetMains(now)
	h.bmc.SetMains(now)
	if h.redfish != nil {
		h.redfish.SetMains(now)
	}
	e.After = h.chassis.Power()
	if f.cfg.OnCommand != nil {
		f.cfg.OnCommand(e)
	}
}

// part is one of the servers of a fleet.
type part interface {
	Listen() error
	Run(context.Context) error
}

func (f *Fleet) parts() []part {
	all := []part{f.block}
	for _, h := range f.hosts[:f.cfg.Redfish] {
		all = append(all, h.redfish)
	}
	for _, p := range f.pdus {
		all = append(all, p)
	}
	return all
}

// Listen opens all sockets, or none, so that what is unusable is told before anybody is
// told of the fleet. Afterwards Run must be called, which closes them.
func (f *Fleet) Listen() error {
	all := f.parts()
	for i, p := range all {
		err := p.Listen()
		if err == nil {
			continue
		}
		ended, end := context.WithCancel(context.Background())
		end()
		for _, p := range all[:i] {
			_ = p.Run(ended) // closes its socket, its only purpose
		}
		return err
	}
	return nil
}

// Run serves until ctx ends, then closes everything and returns nil; any other end is an
// error. It listens first if nobody has. Call it once.
func (f *Fleet) Run(ctx context.Context) error {
	if err := f.Listen(); err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	for _, p := range f.parts() {
		work.Go(func() error { return p.Run(ctx) })
	}
	return work.Wait()
}

// Item is how one device of the fleet is reached: a line of the inventory.
type Item struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"` // ipmi, redfish or pdu
	Address string `json:"address"`
	Port    uint16 `json:"port"`

	UUID        string `json:"uuid,omitempty"`        // ipmi and redfish: of the system
	System      string `json:"system,omitempty"`      // redfish: path of the system
	Fingerprint string `json:"fingerprint,omitempty"` // redfish: SHA-256 of the certificate
	Feeds       []Feed `json:"feeds,omitempty"`       // ipmi: the outlets that feed the host
	Outlets     int    `json:"outlets,omitempty"`     // pdu: how many it has
}

// Feed is one outlet that feeds a host.
type Feed struct {
	PDU    string `json:"pdu"`
	Outlet int    `json:"outlet"`
}

// Inventory lists every device: BMCs, Redfish services, PDUs. Call it after Listen.
func (f *Fleet) Inventory() (items []Item) {
	for i, h := range f.hosts {
		at := f.block.Addr(i)
		item := Item{ID: h.Name, Kind: "ipmi", Address: at.Addr().String(), Port: at.Port(), UUID: uuid(h.bmc.GUID())}
		if pair := i / OutletsOfPDU; pair < len(f.pdus)/2 {
			for feed := range 2 {
				item.Feeds = append(item.Feeds, Feed{fmt.Sprintf("pdu-%04d", 2*pair+feed+1), i%OutletsOfPDU + 1})
			}
		}
		items = append(items, item)
		if h.redfish != nil {
			items = append(items, Item{
				ID: h.Name, Kind: "redfish", Address: at.Addr().String(), Port: f.cfg.Port + 1, UUID: item.UUID,
				System: "/redfish/v1/Systems/1", Fingerprint: h.redfish.Fingerprint(),
			})
		}
	}
	for i := range f.pdus {
		at := f.pduAddr(i)
		items = append(items, Item{ID: fmt.Sprintf("pdu-%04d", i+1), Kind: "pdu", Address: at.Addr().String(), Port: at.Port(), Outlets: OutletsOfPDU})
	}
	return items
}

// Status is the truth of one host and what is wrong with its BMC.
type Status struct {
	ID       string          `json:"id"`
	On       bool            `json:"on"`
	Mains    bool            `json:"mains"`
	Reads    uint64          `json:"reads"`              // status readings the BMC carried out
	Sessions int             `json:"sessions,omitempty"` // half-open ones included
	Faults   *bmc.Faults     `json:"faults,omitempty"`
	Redfish  *redfish.Faults `json:"redfish,omitempty"`
}

// Status returns the hosts that the selection means.
func (f *Fleet) Status(s Selection) ([]Status, error) {
	chosen, err := f.choose(s)
	if err != nil {
		return nil, err
	}
	out := make([]Status, 0, len(chosen))
	for _, h := range chosen {
		h.mu.Lock()
		mains := h.feeds[0] || h.feeds[1]
		h.mu.Unlock()
		live, half := h.bmc.Sessions()
		st := Status{ID: h.Name, On: h.chassis.Power(), Mains: mains, Reads: h.bmc.Reads(), Sessions: live + half}
		if b := h.bmc.Faults(); b != (bmc.Faults{}) && b != (bmc.Faults{LockoutFor: b.LockoutFor}) {
			st.Faults = &b
		}
		if h.redfish != nil {
			if r := h.redfish.Faults(); r != (redfish.Faults{}) && r != (redfish.Faults{LockoutFor: r.LockoutFor}) {
				st.Redfish = &r
			}
		}
		out = append(out, st)
	}
	return out, nil
}

// Switch sets the power of the hosts as by hand: the log shows nothing.
func (f *Fleet) Switch(s Selection, on bool) (int, error) {
	chosen, err := f.choose(s)
	for _, h := range chosen {
		h.chassis.Force(on)
	}
	return len(chosen), err
}

// SPDX-License-Identifier: Apache-2.0

package metal

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/pdu"
)

var users = []bmc.User{{Name: "admin", Password: "s3cret", Privilege: bmc.Administrator}}

// serve runs a fleet on ports that were free a moment ago, until the test ends.
func serve(t *testing.T, cfg Config) *Fleet {
	t.Helper()
	cfg.Users = users
	var f *Fleet
	for try := 0; ; try++ {
		cfg.Port = freePort(t)
		var err error
		if f, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		if err = f.Listen(); err == nil {
			break
		}
		if try == 10 {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return min(uint16(c.LocalAddr().(*net.UDPAddr).Port), 65000)
}

// pong reports whether the device at an address answers a presence ping.
func pong(t *testing.T, item Item) bool {
	t.Helper()
	conn, err := net.Dial("udp", fmt.Sprint(item.Address, ":", item.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 7, 0, 0}); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(make([]byte, 100)) // the socket is connected: only the device's own address gets through
	return err == nil && n == 28
}

// TestTenThousand: each of ten thousand addresses is a BMC of its own, behind one socket.
func TestTenThousand(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("fleet", func(t *testing.T) {
		f := serve(t, Config{Hosts: 10000})
		items := f.Inventory()
		if len(items) != 10000 {
			t.Fatalf("%d devices", len(items))
		}
		seen := map[string]bool{}
		for _, i := range items {
			seen[i.UUID] = true
		}
		if len(seen) != len(items) {
			t.Errorf("%d different identities", len(seen))
		}
		for _, n := range []int{0, 1, 254, 255, 9999} {
			if !pong(t, items[n]) {
				t.Errorf("%s does not answer", items[n].Address)
			}
		}
		outside := items[9999]
		outside.Address = netip.MustParseAddr(outside.Address).Next().String()
		if pong(t, outside) {
			t.Error("an address behind the last one answers")
		}
	})
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

// TestFeeds: with one feed a host runs, with none it is dark, BMC and Redfish included;
// with one again it is as it was before (power.md §5).
func TestFeeds(t *testing.T) {
	var mu sync.Mutex
	var truth []bmc.Entry
	f := serve(t, Config{Hosts: 30, Redfish: 1, PDUs: 4, OnCommand: func(e bmc.Entry) { mu.Lock(); defer mu.Unlock(); truth = append(truth, e) }})
	items := f.Inventory()
	at := slices.IndexFunc(items, func(i Item) bool { return i.Kind == "pdu" })
	if d := cmp.Diff([]Feed{{"pdu-0003", 2}, {"pdu-0004", 2}}, items[1+25].Feeds); d != "" {
		t.Errorf("feeds of host 26 (-want +got):\n%s", d)
	}
	if len(items)-at != 4 {
		t.Errorf("%d PDUs", len(items)-at)
	}
	h := f.hosts[0]
	cut := func(feed int, on bool) { f.pdus[feed].Force(1, on) }
	if cut(0, false); !h.chassis.Power() || !pong(t, items[0]) {
		t.Error("dark with one feed left")
	}
	if cut(1, false); h.chassis.Power() || pong(t, items[0]) {
		t.Error("alive without any feed")
	}
	if get(t, items[1]) {
		t.Error("the Redfish service lives without mains")
	}
	if err := f.Apply([]Rule{{BMC: &bmc.Faults{}}}); err != nil {
		t.Fatal(err)
	}
	if pong(t, items[0]) {
		t.Error("new faults brought a BMC without mains to life")
	}
	if cut(1, true); !h.chassis.Power() || !pong(t, items[0]) || !get(t, items[1]) {
		t.Error("dark with a feed again")
	}
	mu.Lock()
	defer mu.Unlock()
	var log []string
	for _, e := range truth {
		log = append(log, fmt.Sprint(e.BMC, " ", e.Verb, " ", e.Before, " ", e.After))
	}
	if d := cmp.Diff([]string{"bmc-00001 mains-off true false", "bmc-00001 mains-on false true"}, log); d != "" {
		t.Errorf("truth (-want +got):\n%s", d)
	}
}

func get(t *testing.T, i Item) bool {
	t.Helper()
	c := http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // of the simulator
	}}
	resp, err := c.Get(fmt.Sprintf("https://%s:%d/redfish/v1/", i.Address, i.Port))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// TestSeed: two fleets of one seed have the same identities and the same sick hosts; of
// another seed, others.
func TestSeed(t *testing.T) {
	sick := func(seed uint64) (out []string) {
		f, err := New(Config{Hosts: 1000, Users: users, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		rules, _ := PresetRules("liars")
		if err := f.Apply(rules); err != nil {
			t.Fatal(err)
		}
		st, err := f.Status(Selection{})
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for i, s := range st {
			b, err := json.Marshal(s.Faults)
			if err != nil {
				t.Fatal(err)
			}
			kinds[string(b)]++
			out = append(out, f.Inventory()[i].UUID+string(b))
			if i == 9 {
				break
			}
		}
		return out
	}
	if d := cmp.Diff(sick(7), sick(7)); d != "" {
		t.Errorf("one seed, two fleets:\n%s", d)
	}
	if slices.Equal(sick(7), sick(8)) {
		t.Error("two seeds, one fleet")
	}
}

// TestShares: shares of one call do not overlap, and are as large as they say.
func TestShares(t *testing.T) {
	f, err := New(Config{Hosts: 1000, Users: users, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := PresetRules("liars")
	if err := f.Apply(rules); err != nil {
		t.Fatal(err)
	}
	kinds := map[bmc.Faults]int{}
	for _, h := range f.hosts {
		kinds[h.bmc.Faults()]++
	}
	if len(kinds) != 10 {
		t.Errorf("%d kinds of host", len(kinds))
	}
	for k, n := range kinds {
		if n != 100 {
			t.Errorf("%d of %+v", n, k)
		}
	}
}

// TestRules: rules are read strictly and applied wholly or not at all.
func TestRules(t *testing.T) {
	f, err := New(Config{Hosts: 48, PDUs: 2, Redfish: 1, Users: users})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(text string) error {
		rules, err := ParseRules([]byte(text))
		if err != nil {
			return err
		}
		return f.Apply(rules)
	}
	if err := apply(`[{"hosts": "1-3,5", "bmc": {"delay": "40ms", "jitter": 1000}}, {"redfish": {"trickle": "1s"}}, {"pdus": "2", "pdu": {"mute": true}}]`); err != nil {
		t.Fatal(err)
	}
	want := bmc.Faults{Delay: 40 * time.Millisecond, Jitter: 1000, LockoutFor: 5 * time.Minute}
	if f.hosts[4].bmc.Faults() != want || f.hosts[3].bmc.Faults() == want || f.hosts[0].redfish.Faults().Trickle != time.Second ||
		f.pdus[0].Faults() != (pdu.Faults{}) || !f.pdus[1].Faults().Mute {
		t.Error("rules went elsewhere")
	}
	if err := apply(`{"bmc": {}}`); err != nil || f.hosts[4].bmc.Faults() == want {
		t.Errorf("healed: %v", err)
	}
	for text, part := range map[string]string{
		``:                                      "EOF",
		`[{"hosts": "1"}]`:                      "sets nothing",
		`[{"bmc": {"mutte": true}}]`:            "mutte",
		`[{"bmc": {"delay": "soon"}}]`:          "delay",
		`[{"bmc": {"lose_answers": 101}}]`:      "lose_answers",
		`[{"hosts": "0", "bmc": {}}]`:           "hosts",
		`[{"hosts": "2-49", "bmc": {}}]`:        "1 to 48",
		`[{"hosts": "9-2", "bmc": {}}]`:         "9-2",
		`[{"percent": 101, "bmc": {}}]`:         "percent",
		`[{"pdus": "3", "pdu": {}}]`:            "pdus",
		`[{"bmc": {"mute": true}}, {"bmc": 5}]`: "bmc",
		`[{"bmc": {"mute": true}}, {"bmc": {"say_on": true, "say_off": true}}]`: "say_off",
		`[] []`: "more",
	} {
		if err := apply(text); !errors.Is(err, ErrBadRule) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want an error about %s", text, err, part)
		}
	}
	if f.hosts[0].bmc.Faults().Mute {
		t.Error("half of a bad list was applied")
	}
}

// TestConfig: a fleet that cannot be is refused with what is allowed.
func TestConfig(t *testing.T) {
	for part, cfg := range map[string]Config{
		"hosts is 0":       {},
		"127.0.0.0/8":      {Hosts: 1, Network: netip.MustParsePrefix("10.0.0.0/8")},
		"too small":        {Hosts: 300, Network: netip.MustParsePrefix("127.1.1.0/24")},
		"redfish is 2":     {Hosts: 1, Redfish: 2},
		"pdus is 3":        {Hosts: 100, PDUs: 3},
		"hosts need: 2":    {Hosts: 24, PDUs: 4},
		"port is 65535":    {Hosts: 1, Port: 65535},
		"redfish is -1":    {Hosts: 1, Redfish: -1},
		"allowed is one w": {Hosts: 1, Network: netip.MustParsePrefix("127.0.0.0/1")},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%+v: %v, want %q", cfg, err, part)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	hostilePackets = 100_000
	heapBound      = 2 << 20
	batch          = 64 // fits a socket's queue
)

// attack makes the i-th datagram of its kind; recorded are the genuine answers so far,
// the last ones of a moment when the chassis was OFF.
type attack struct {
	name string
	make func(sh *shadow, recorded [][]byte, i int) []byte
}

func random(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}

var attacks = []attack{
	{"forged plaintext OFF", func(sh *shadow, _ [][]byte, _ int) []byte { return sh.wrap(typeMessage, sh.seq+1, sh.off(), false) }},
	{"forged plaintext OFF outside the session", func(sh *shadow, _ [][]byte, _ int) []byte {
		return handshake(typeMessage, sh.off())
	}},
	{"forged IPMI 1.5 OFF", func(sh *shadow, _ [][]byte, _ int) []byte {
		m := sh.off()
		return append(append(rmcpHeader[:], 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(m))), m...)
	}},
	{"encrypted OFF with a wrong integrity code", func(sh *shadow, _ [][]byte, _ int) []byte {
		return sh.wrap(sealed, sh.seq+1, sh.encrypt(pad(sh.off())), false)
	}},
	{"encrypted OFF without integrity code", func(sh *shadow, _ [][]byte, _ int) []byte {
		return sh.wrap(typeMessage|flagEncrypted, sh.seq+1, sh.encrypt(pad(sh.off())), false)
	}},
	{"authenticated plaintext OFF", func(sh *shadow, _ [][]byte, _ int) []byte {
		return sh.wrap(typeMessage|flagAuthenticated, sh.seq+1, sh.off(), true)
	}},
	{"short encrypted payload", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(typeMessage|flagEncrypted, sh.seq+1, random(i%16), false)
	}},
	{"short encrypted payload, signed", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(sealed, sh.seq+1, random(i%32), true)
	}},
	{"impossible pad length", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(sealed, sh.seq+1, sh.encrypt(append(random(15), byte(16+i%240))), false)
	}},
	{"impossible pad length, signed", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(sealed, sh.seq+1, sh.encrypt(append(random(15), byte(16+i%240))), true)
	}},
	{"ciphertext not a multiple of 16", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(typeMessage|flagEncrypted, sh.seq+1, random(33+i%15), false)
	}},
	{"ciphertext not a multiple of 16, signed", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(sealed, sh.seq+1, random(33+i%15), true)
	}},
	{"short message, signed", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(sealed, sh.seq+1, sh.encrypt(pad(random(i%8))), true)
	}},
	{"wrong checksum, signed", func(sh *shadow, _ [][]byte, i int) []byte {
		m := sh.off()
		m[i%len(m)] ^= 0x40
		return sh.wrap(sealed, sh.seq+1, sh.encrypt(pad(m)), true)
	}},
	{"answer to another request, signed", func(sh *shadow, _ [][]byte, i int) []byte {
		m := sh.off()
		d := byte(4 << (i % 4)) // another sequence number, checksum kept right
		m[4] ^= d
		m[len(m)-1] -= m[4] - (m[4] ^ d)
		return sh.wrap(sealed, sh.seq+1, sh.encrypt(pad(m)), true)
	}},
	{"random bytes", func(_ *shadow, _ [][]byte, i int) []byte { return random(i % 1500) }},
	{"random bytes behind a right header", func(sh *shadow, _ [][]byte, i int) []byte {
		return sh.wrap(byte(rand.Uint32()), rand.Uint32(), random(i%200), false)
	}},
	{"replay of the recorded session", func(_ *shadow, recorded [][]byte, i int) []byte { return recorded[i%len(recorded)] }},
}

// TestHostileDatagrams: 100,000 hostile datagrams of each kind while a status is awaited:
// the process lives, memory is flat, and the true ON is read (power.md §11, 14 to 17).
func TestHostileDatagrams(t *testing.T) {
	for i, a := range attacks {
		id := []string{"3", "17"}[i%2]
		t.Run(a.name, func(t *testing.T) { flood(t, id, a) })
	}
}

func flood(t *testing.T, id string, a attack) {
	b := newBMC(t, types.CipherSuiteID17, types.CipherSuiteID3)
	sh := newShadow(suites[id], "operator")
	var mu sync.Mutex
	var recorded [][]byte
	var holding bool
	held := make(chan []byte, 1)
	sh.follow(b.relay, func(pk packet, p []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if holding {
			holding = false
			sh.mu.Lock()
			sh.seq-- // the attacker may use the number before the BMC does
			sh.mu.Unlock()
			held <- p
			return nil
		}
		recorded = append(recorded, slices.Clone(p))
		return [][]byte{p}
	})
	target := b.target(t, "operator", map[string]string{"cipher": id})
	target.Limits = power.Limits{Packet: time.Minute, Answer: time.Minute}
	c := open(t, New(nil), target)

	b.device(t, nil).SetPower(corepower.Off)
	for range 3 {
		if r, err := c.Status(t.Context()); err != nil || r.State != corepower.Off {
			t.Fatalf("status: %+v, %v", r, err)
		}
	}
	b.device(t, nil).SetPower(corepower.On)
	mu.Lock()
	holding = true
	mu.Unlock()
	type result struct {
		r   corepower.Reading
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := c.Status(context.Background())
		done <- result{r, err}
	}()
	genuine := <-held

	var variants [1024][]byte
	for i := range variants {
		variants[i] = a.make(sh, recorded, i)
	}
	before := heap()
	dropped := func() (n uint64) {
		for _, v := range c.guard.snapshot().dropped {
			n += v
		}
		return n
	}
	sent := 0
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for seen := dropped(); seen < hostilePackets; seen = dropped() {
		for range batch {
			b.inject(variants[sent%len(variants)])
			sent++
		}
		for ticks := 0; dropped() < seen+batch && ticks < 25; ticks++ { // the socket's queue may lose some
			<-tick.C
		}
		select {
		case got := <-done:
			t.Fatalf("a hostile datagram ended the read: %+v, %v", got.r, got.err)
		default:
		}
	}
	if grown := int64(heap()) - int64(before); grown > heapBound {
		t.Errorf("heap grew by %d bytes over %d datagrams, allowed are %d", grown, sent, heapBound)
	}
	b.inject(genuine)
	got := <-done
	if got.err != nil || got.r.State != corepower.On || !got.r.Authentic {
		t.Errorf("the true state is read after the flood: %+v, %v", got.r, got.err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("close session: %v", err)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestForgedBeforeEveryAnswer: hostile packets ahead of each answer, the log-in's
// included, change nothing, and the drops are reported as a security event.
func TestForgedBeforeEveryAnswer(t *testing.T) {
	for _, id := range []string{"3", "17"} {
		b := newBMC(t, types.CipherSuiteID17, types.CipherSuiteID3)
		sh := newShadow(suites[id], "operator")
		sh.follow(b.relay, func(pk packet, p []byte) [][]byte {
			var out [][]byte
			flip := func(at int) {
				q := slices.Clone(p)
				q[at] ^= 0x01
				out = append(out, q)
			}
			switch pk.kind {
			case typeOpenResp: // a refusal, a foreign session, weaker algorithms
				flip(rmcpLen + headerLen + 1)
				flip(rmcpLen + headerLen + 4)
				flip(rmcpLen + headerLen + 24)
			case typeRAKP2, typeRAKP4: // a refusal and a proof without the password
				flip(rmcpLen + headerLen + 1)
				flip(len(p) - 1)
			default:
				sh.mu.Lock()
				out = append(out, sh.wrap(typeMessage, pk.seq, sh.off(), false), handshake(typeMessage, sh.off()))
				sh.mu.Unlock()
				flip(len(p) - 1)
			}
			return append(out, p, p) // and each genuine answer twice
		})
		var reported Report
		d := New(func(_ power.Target, r Report) { reported = r })
		for range 5 {
			r, err := power.ReadOnce(t.Context(), d, b.target(t, "operator", map[string]string{"cipher": id}))
			if err != nil || r.State != corepower.On {
				t.Errorf("suite %s: the true state is read: %+v, %v", id, r, err)
			}
		}
		if drops := reported.Dropped(); drops[Unauthenticated] == 0 || drops[BadProof] == 0 || drops[Weaker] == 0 || drops[BadIntegrity] == 0 {
			t.Errorf("suite %s: drops are reported by reason: %v", id, drops)
		}
	}
}

// TestOnlyForgedAnswers: with nothing genuine the state is unknown, never what was forged.
func TestOnlyForgedAnswers(t *testing.T) {
	b := newBMC(t, types.CipherSuiteID3)
	sh := newShadow(suites["3"], "operator")
	sh.follow(b.relay, func(pk packet, p []byte) [][]byte {
		if pk.kind != sealed {
			return [][]byte{p}
		}
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return [][]byte{sh.wrap(sealed, pk.seq, sh.encrypt(pad(sh.off())), false)}
	})
	target := b.target(t, "operator", map[string]string{"cipher": "3"})
	target.Limits.Answer = 300 * time.Millisecond
	r, err := power.ReadOnce(t.Context(), New(nil), target)
	if r != (corepower.Reading{}) {
		t.Errorf("an error implies the zero reading, got %+v", r)
	}
	wantKind(t, err, corepower.ProtocolViolation)
}

// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// goroutines counts those with a function on their stack.
func goroutines(t *testing.T, of string) (n int) {
	t.Helper()
	var all strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		t.Fatal(err)
	}
	for _, group := range strings.Split(all.String(), "\n\n") {
		if !strings.Contains(group, of) {
			continue
		}
		_, group, _ = strings.Cut("\n"+group, "\n") // the first has the profile's title above
		if strings.HasPrefix(group, "goroutine profile") {
			_, group, _ = strings.Cut(group, "\n")
		}
		count, _, _ := strings.Cut(group, " @ ")
		k, err := strconv.Atoi(count)
		if err != nil {
			t.Fatalf("%v in %q", err, group)
		}
		n += k
	}
	return n
}

// Idle streams are most of what a worker keeps: in use or standing by, each has one goroutine.
func TestIdleStreamsHaveOneGoroutine(t *testing.T) {
	w := open(t)
	for i := range uint64(3) {
		s, _ := w.hello(t, host(fmt.Sprint("h", i), 1))
		ping(t, s, 1)
		<-w.pings
		recv(t, s)
		stand := host(fmt.Sprint("h", i), 2)
		stand.Role = agentpb.Hello_STANDBY
		w.hello(t, stand)
	}
	eventually(t, "six goroutines hold the streams, and none sends", func() bool {
		return goroutines(t, "link.(*Server).converse+") == 6 && goroutines(t, "link.(*outbox).send+") == 0
	})
}

// What was said before the last word is heard before it.
func TestLastWordIsLast(t *testing.T) {
	w := open(t)
	s, _ := w.hello(t, host("h1", 1))
	for i := range sendQueue / 2 {
		w.door.SendList("h1", &agentpb.List{Hash: fmt.Sprint(i)})
	}
	w.door.Drop("h1", &agentpb.Refusal{Detail: "enough"})
	w.door.SendList("h1", &agentpb.List{Hash: "nobody is there"})
	for i := 0; ; i++ {
		d := recv(t, s)
		if r := d.GetRefusal(); r.GetDetail() == "enough" {
			break
		}
		if d.GetNewList().GetHash() != fmt.Sprint(i) {
			t.Fatalf("got %v, want list %d or the refusal", d, i)
		}
	}
	if d, err := s.Recv(); err == nil {
		t.Errorf("after the last word: %v", d)
	}
}

// SPDX-License-Identifier: Apache-2.0

package dirs

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// Many looks at once do not read what all processes have open many times, and each gets a
// reading that began after it asked: what one under way has passed already may have changed.
func TestLooksShareAReading(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	var count atomic.Int32
	r := &readings{read: func() (map[string][]int, error) {
		n := int(count.Add(1))
		begun <- struct{}{}
		<-end
		return map[string][]int{"/a/v": {n}}, nil
	}}
	first := r.join()
	<-begun
	var later []*reading
	for range 100 {
		later = append(later, r.join())
	}
	end <- struct{}{}
	<-first.done
	<-begun
	end <- struct{}{}
	for _, x := range later {
		<-x.done
		if got := x.pids["/a/v"]; len(got) != 1 || got[0] != 2 {
			t.Fatalf("a look that came during the first reading got %v, want that of the second", got)
		}
	}
	if n := count.Load(); n != 2 || first.pids["/a/v"][0] != 1 {
		t.Errorf("%d readings for 101 looks, want 2; the first look got %v", n, first.pids)
	}
	after := r.join()
	<-begun
	end <- struct{}{}
	if <-after.done; after.pids["/a/v"][0] != 3 {
		t.Errorf("a look after all that got %v, want a reading of its own", after.pids)
	}
}

// Who cannot wait any longer knows nothing, instead of that nobody has it open.
func TestALookThatEndsKnowsNoUsers(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no time")
	cancel(why)
	hold := make(chan struct{})
	was := processes
	processes = &readings{read: func() (map[string][]int, error) { <-hold; return nil, nil }}
	defer func() { processes = was; close(hold) }()
	if pids, err := openBy(ctx, "/a/v"); !errors.Is(err, why) || len(pids) > 0 {
		t.Errorf("users %v, %v; want the end of the look", pids, err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// linkEnv tells a process that it is a child, and of which parent: it is not inherited by
// mistake, because its value names the parent's process.
const linkEnv = "HOLDFAST_WORKER_PARENT"

// beatEnv tells a child how often its parent wants to hear that it lives; unset: once is enough.
const beatEnv = "HOLDFAST_WORKER_BEAT"

// Files that a child is given, beside its standard ones.
const (
	fdLink = 3 + iota
	fdAPI
	fdAgents
)

// said is one line of a child.
type said struct {
	Lives bool   `json:"lives,omitempty"` // it works
	Ready bool   `json:"ready,omitempty"` // it could join at once
	Boot  string `json:"boot,omitempty"`  // it has a lease, under this boot
	Lease int64  `json:"lease,omitempty"`
}

// Child is a worker's end of the link to its parent.
type Child struct {
	API, Agents net.Listener // opened by the parent

	turn  chan struct{}
	every time.Duration // between two signs of life; 0: one is enough

	mu   sync.Mutex
	link net.Conn
}

// Attach returns the link to the parent, nil in a process that is no child. Call it once,
// before anything else opens files. The caller closes the listeners.
func Attach() (*Child, error) {
	if os.Getenv(linkEnv) != strconv.Itoa(os.Getppid()) {
		return nil, nil
	}
	if err := os.Unsetenv(linkEnv); err != nil {
		return nil, fmt.Errorf("attach to parent: %w", err)
	}
	c := &Child{turn: make(chan struct{})}
	if text := os.Getenv(beatEnv); text != "" {
		var err error
		if c.every, err = time.ParseDuration(text); err != nil || c.every <= 0 {
			return nil, fmt.Errorf("attach to parent: %s is %q: want a duration above 0", beatEnv, text)
		}
	}
	f := os.NewFile(fdLink, "link")
	defer f.Close()
	var err error
	if c.link, err = net.FileConn(f); err != nil {
		return nil, fmt.Errorf("attach to parent: %w", err)
	}
	for fd, into := range map[uintptr]*net.Listener{fdAPI: &c.API, fdAgents: &c.Agents} {
		f := os.NewFile(fd, "listener")
		*into, err = net.FileListener(f)
		_ = f.Close() // the listener has a copy
		if err != nil {
			return nil, fmt.Errorf("take listener from parent: %w", err)
		}
	}
	go func() { // ends with the parent's word, or with this process
		defer close(c.turn)
		_, _ = bufio.NewReader(c.link).ReadString('\n') // a parent that is gone takes this process along
	}()
	return c, nil
}

// Live tells the parent that this process works: once, and as often as the parent wants to
// hear it, each time that check has returned. It returns when once is enough; else it ends
// with the process.
func (c *Child) Live(check func()) {
	for {
		check()
		c.say(said{Lives: true})
		if c.every == 0 {
			return
		}
		<-time.After(c.every)
	}
}

// Ready tells the parent that this process could join. Idempotent.
func (c *Child) Ready() { c.say(said{Ready: true}) }

// Turn is closed when this process may serve and join: at once for the first child, when
// the old one has ended in a restart.
func (c *Child) Turn() <-chan struct{} { return c.turn }

// OnSession tells the parent which lease to revoke should this process die.
func (c *Child) OnSession(boot string, lease int64) { c.say(said{Boot: boot, Lease: lease}) }

func (c *Child) say(s said) {
	line, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers only
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.link.Write(append(line, '\n')) // a parent that is gone takes this process along
}

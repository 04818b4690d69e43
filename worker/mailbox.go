// SPDX-License-Identifier: Apache-2.0

package worker

import "sync"

// mailbox is an unbounded queue in front of one goroutine. It is unbounded because no
// sender may ever block on an owner that waits for etcd; what can repeat (pings, wake-ups)
// is coalesced by its sender's key, so its length is bounded by what is different.
type mailbox struct {
	mu    sync.Mutex
	items []mail
	ready chan struct{} // holds one token while items is not empty
}

type mail struct {
	key string // non-empty: replaces an earlier mail of the same key
	msg any
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

// put queues msg. With a key, a queued message of that key is replaced in place.
func (m *mailbox) put(key string, msg any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key != "" {
		for i := range m.items {
			if m.items[i].key == key {
				m.items[i].msg = msg
				return
			}
		}
	}
	m.items = append(m.items, mail{key, msg})
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// take removes the oldest message; ok is false when there is none.
func (m *mailbox) take() (msg any, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.items) == 0 {
		return nil, false
	}
	msg = m.items[0].msg
	m.items[0] = mail{}
	if len(m.items) == 1 {
		m.items = m.items[:0] // the next one goes where this one was
	} else {
		m.items = m.items[1:]
		select {
		case m.ready <- struct{}{}:
		default:
		}
	}
	return msg, true
}

func (m *mailbox) depth() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items)
}

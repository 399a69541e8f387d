//! One comparison carried from side to side, with its messages as bytes, counted.
#![allow(dead_code, unreachable_pub)] // Each user is a program of its own, and needs a part.

use std::fmt::Debug;

use dynkv_merkle::{Comparison, Difference, Entries, Reply, Request, Tree};

pub struct Exchange {
    pub comparison: Comparison,
    pub differences: Vec<Difference>,
    pub bytes: usize,
    pub requests: usize,
    /// Round trips: all that can be asked is asked at once, up to a limit.
    pub rounds: usize,
    pub largest: usize,
    /// On the way to the other side, and back.
    asked: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
}

impl Exchange {
    pub fn new(tree: &Tree, there: u8, salt: u64, together: usize) -> Self {
        Self {
            comparison: Comparison::new(tree, there, salt, together),
            differences: Vec::new(),
            bytes: 0,
            requests: 0,
            rounds: 0,
            largest: 0,
            asked: Vec::new(),
            answered: Vec::new(),
        }
    }

    /// The initiator asks, until as many requests are under way. False when it is done.
    pub fn ask<S: Entries<Error: Debug>>(&mut self, tree: &Tree, store: &S, under_way_max: usize) -> bool {
        while self.comparison.under_way() < under_way_max {
            let Some(request) = self.comparison.next_request(tree, store).unwrap() else { break };
            let request = request.to_bytes();
            self.count(request.len());
            self.requests += 1;
            self.asked.push(request);
        }
        self.rounds += usize::from(!self.asked.is_empty());
        !self.comparison.is_done()
    }

    /// The responder answers what was asked, the latest first.
    pub fn answer<S: Entries<Error: Debug>>(&mut self, tree: &Tree, store: &S) {
        while let Some(request) = self.asked.pop() {
            let request = Request::from_bytes(&request).unwrap();
            let reply = tree.answer(&request, store).unwrap().to_bytes();
            self.count(reply.len());
            self.answered.push(reply);
        }
    }

    /// The initiator takes in the answers.
    pub fn take(&mut self, tree: &Tree) {
        for reply in self.answered.drain(..) {
            let reply = Reply::from_bytes(&reply).unwrap();
            self.comparison.handle(tree, &reply, &mut self.differences).unwrap();
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
    }

    /// The whole comparison, with so many requests under way.
    pub fn run<S: Entries<Error: Debug>, T: Entries<Error: Debug>>(
        mut self,
        (tree, store): (&Tree, &S),
        (there_tree, there_store): (&Tree, &T),
        under_way_max: usize,
    ) -> Self {
        while self.ask(tree, store, under_way_max) {
            self.answer(there_tree, there_store);
            self.take(tree);
        }
        self
    }
}

//! The local service tasks attach through: attach socket, death watch, dispatcher, reaper.
